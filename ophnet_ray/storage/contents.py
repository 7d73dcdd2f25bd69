"""Identity of files by their content, whatever they are called and wherever they lie."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ophnet_ray.storage.files import FileStatus
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.paths import bucket_path, is_remote

END_BYTES = 1 << 18
"""Bytes at the start and at the end of a file that stand for its content, beside its size."""
PROBE_BYTES, NUM_PROBES = 1 << 12, 64
"""Samples of a file between its ends, at equal distances."""


def identify_content(path: str, status: FileStatus) -> str | None:
    """Return a text that is equal for equal contents; None for an object without an ETag.

    On disk it is the size and a hash of samples: both ends, where containers keep the size of every
    frame, and ``NUM_PROBES`` parts between them. A video that is encoded again differs in nearly
    all of them. A change that keeps the size, the ends and every probe is not noticed, whatever
    the time of the file; it is shorter than a 65th of the file, e.g. one frame overwritten in
    place. To notice it, each file would have to be read whole wherever it moves.

    In a bucket it is the size and the ETag, for which nothing is read.

    Args:
        path: Path or URI.
        status: Size and time of the file.

    Raises:
        OSError: The file cannot be read.
    """
    return identify_with_ends(path, status)[0]


def identify_with_ends(path: str, status: FileStatus) -> tuple[str | None, str | None]:
    """Return ``identify_content`` and ``identify_ends`` of a file on disk that is read once.

    Of an object in a bucket, of which nothing is read, the latter is None.

    Raises:
        OSError: The file cannot be read.
    """
    size_bytes = status.size_bytes
    if is_remote(path):
        with in_one_line(path), filesystem_of(path).open_input_file(bucket_path(path)) as file:
            metadata = {name.lower(): text.decode() for name, text in file.metadata().items()}
        etag = metadata.get("etag", "").strip('"')
        return (f"{size_bytes}-etag-{etag}" if etag else None), None
    with Path(path).open("rb") as file:
        hashed = _begin_hash(_read_ends(file, size_bytes))
        ends = f"{size_bytes}-{hashed.hexdigest()}" if size_bytes else None
        for probe in _read_probes(file, size_bytes):
            hashed.update(probe)
    return f"{size_bytes}-{hashed.hexdigest()}", ends


def identify_ends(path: str, status: FileStatus) -> str | None:
    """Return size and hash of both ends, as text: the same for an object and its copy on disk.

    None for an empty file: all of them would be one.

    Raises:
        OSError: The file cannot be read.
    """
    size_bytes = status.size_bytes
    return f"{size_bytes}-{hash_ends(path, size_bytes)}" if size_bytes else None


def hash_ends(path: str, size_bytes: int) -> str:
    """Return a hash of both ends of a file, the same for an object of a bucket and its copy.

    Raises:
        OSError: The file cannot be read.
    """
    if not is_remote(path):
        with Path(path).open("rb") as file:
            return _begin_hash(_read_ends(file, size_bytes)).hexdigest()
    with in_one_line(path), filesystem_of(path).open_input_file(bucket_path(path)) as file:
        return _begin_hash(_read_ends(file, size_bytes)).hexdigest()


def _read_ends(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    yield file.read(END_BYTES)
    file.seek(max(size_bytes - END_BYTES, 0))
    yield file.read()


def _read_probes(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    for i in range(1, NUM_PROBES + 1):
        file.seek(size_bytes * i // (NUM_PROBES + 1))
        yield file.read(PROBE_BYTES)


def _begin_hash(parts: Iterable[bytes]) -> "hashlib.blake2b":
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed
