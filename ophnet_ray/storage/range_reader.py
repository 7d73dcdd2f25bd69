"""A file of a bucket as a Python file object: range reads, a part ahead, each part once."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ophnet_ray.storage.filesystems import filesystem_of
from ophnet_ray.storage.paths import bucket_path, is_remote

PART_BYTES = 4_000_000
PARTS_AHEAD = 2


class RangeReader(io.RawIOBase):
    """Read an object in any order, fetching each part of it at most once.

    What was fetched is kept in a temporary file without a name, so that two passes over a video
    (one for its times, one for its frames) fetch it once and jumps spare what they jump over. While
    it is read in order, the next parts are on their way.

    Args:
        read_at: Size and offset to bytes; may be called by several threads.
        size_bytes: Of the object.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], size_bytes: int) -> None:
        super().__init__()
        self._read_at, self._size_bytes = read_at, size_bytes
        self._position = 0
        self._spool: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._parts: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(PARTS_AHEAD + 1, thread_name_prefix="read-ahead")

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, without fetching anything."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(start[whence] + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of a part.

        Raises:
            OSError: The bucket does not answer.
        """
        memory = memoryview(buffer).cast("B")
        part, inside = divmod(self._position, PART_BYTES)
        size_bytes = min(len(memory), PART_BYTES - inside, self._size_bytes - self._position)
        if size_bytes <= 0:
            return 0
        goes_on = part == 0 or part - 1 in self._parts
        self._request(part)
        for ahead in range(part + 1, part + 1 + PARTS_AHEAD) if goes_on else ():
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
        while data:
            written = os.pwrite(self._spool.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        """Forget what was fetched."""
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
            self._spool.close()
        super().close()


@contextmanager
def open_source(path: str | Path) -> Iterator[str | RangeReader]:
    """What a codec reads a file from: its path, or for one in a bucket a file object.

    Raises:
        OSError: The bucket does not answer, or has no such file.
    """
    if not is_remote(path):
        yield str(path)
        return
    uri = str(path)
    with filesystem_of(uri).open_input_file(bucket_path(uri)) as file:
        size_bytes = file.size()
        with RangeReader(file.read_at, size_bytes) as reader:
            yield reader
