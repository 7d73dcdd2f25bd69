"""A bucket object as a seekable Python file, read in parts, each fetched once."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import describe_full, is_full
from ophnet_ray.storage.filesystems import filesystem_of
from ophnet_ray.storage.paths import bucket_path, is_remote

PART_BYTES = 4_000_000
PARTS_AHEAD = 2


class RangeReader(io.RawIOBase):
    """A file object that reads an object in any order and fetches each part at most once.

    Fetched parts are kept in an anonymous temporary file: two passes over a video (one for its
    times, one for its frames) fetch it once, and parts that a seek skips are not fetched. During
    sequential reading, the next parts are fetched ahead.

    Args:
        read_at: Maps size and offset to bytes; called from several threads.
        size_bytes: Size of the object.
        spool_dir: Folder of the temporary file; the system's when None.
    """

    def __init__(
        self,
        read_at: Callable[[int, int], bytes],
        size_bytes: int,
        spool_dir: str | None = None,
    ) -> None:
        super().__init__()
        self._read_at, self._size_bytes = read_at, size_bytes
        self._position = 0
        self._spool_dir = spool_dir
        self._spool: Any = tempfile.TemporaryFile(  # noqa: SIM115 - closed with this object
            dir=spool_dir
        )
        self._parts: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(PARTS_AHEAD + 1, thread_name_prefix="read-ahead")

    def readable(self) -> bool:
        """Return True: the stream is readable."""
        return True

    def seekable(self) -> bool:
        """Return True: the stream is seekable."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read; fetch nothing."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(start[whence] + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, at most to the end of a part; return the number of bytes.

        Raises:
            OSError: The bucket does not answer.
            UserError: The disk of the temporary file is full.
        """
        memory = memoryview(buffer).cast("B")
        part, inside = divmod(self._position, PART_BYTES)
        size_bytes = min(len(memory), PART_BYTES - inside, self._size_bytes - self._position)
        if size_bytes <= 0:
            return 0
        is_sequential = part == 0 or part - 1 in self._parts
        self._request(part)
        for ahead in range(part + 1, part + 1 + PARTS_AHEAD) if is_sequential else ():
            self._request(ahead)
        self._parts[part].result()
        count = os.preadv(self._spool.fileno(), [memory[:size_bytes]], self._position)
        self._position += count
        return count

    def _request(self, part: int) -> None:
        if part not in self._parts and part * PART_BYTES < self._size_bytes:
            self._parts[part] = self._pool.submit(self._fetch, part)

    def _fetch(self, part: int) -> None:
        offset = part * PART_BYTES
        data = memoryview(self._read_at(min(PART_BYTES, self._size_bytes - offset), offset))
        try:
            while data:
                written = os.pwrite(self._spool.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            if not is_full(error):
                raise
            folder = self._spool_dir or tempfile.gettempdir()
            flag = "--local_cache_dir" if self._spool_dir else "TMPDIR"
            raise UserError(
                f"{folder} cannot hold the parts of a video that are fetched: "
                f"{describe_full(error, folder)}; free some space or choose another {flag}"
            ) from error

    def close(self) -> None:
        """Stop fetching and delete the fetched parts."""
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
            self._spool.close()
        super().close()


@contextmanager
def open_source(path: str | Path, spool_dir: str | None = None) -> Iterator[str | RangeReader]:
    """Open a file for the codec: yield its path, or a file object for one in a bucket.

    Args:
        path: Path or URI.
        spool_dir: Folder of this machine for the parts that are fetched; created when it is
            missing. The system's temporary folder, which often lies in memory, when None.

    Raises:
        OSError: The bucket does not answer, or has no such object.
    """
    if not is_remote(path):
        yield str(path)
        return
    uri = str(path)
    if spool_dir is not None:
        Path(spool_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    with filesystem_of(uri).open_input_file(bucket_path(uri)) as file:
        size_bytes = file.size()
        with RangeReader(file.read_at, size_bytes, spool_dir) as reader:
            yield reader
