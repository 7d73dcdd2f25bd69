"""Videos of equal content under several names: one operation, whatever its files are called."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ophnet_ray.storage.files import stat_files
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.paths import bucket_path, is_remote

END_BYTES = 1 << 18
"""Bytes at the start and at the end of a video that stand for its content, beside its size."""
_THREADS = 16


def find_same_videos(videos: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of files of equal content, sorted; only files of equal size are read.

    Empty files, and files that cannot be read, are in no group.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for video, status in stat_files(set(videos)).items():
        by_size[status.size_bytes].append(video)
    twins = [
        (size_bytes, video)
        for size_bytes, found in by_size.items()
        if size_bytes and len(found) > 1
        for video in found
    ]
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    with ThreadPoolExecutor(_THREADS) as pool:
        ends = pool.map(lambda twin: hash_ends(twin[1], twin[0]), twins)
        for (size_bytes, video), digest in zip(twins, ends, strict=True):
            if digest is not None:
                groups[size_bytes, digest].append(video)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def read_content_id(video: str) -> str | None:
    """Return a text that two files have in common only if their content is equal.

    It is the same for a file in a bucket and its copy on disk. None for a file that is empty or
    cannot be read.
    """
    status = stat_files([video]).get(video)
    if status is None or not status.size_bytes:
        return None
    digest = hash_ends(video, status.size_bytes)
    return None if digest is None else f"{status.size_bytes}-{digest}"


def hash_ends(video: str, size_bytes: int) -> str | None:
    """Return a hash of both ends of a video; None if it cannot be read."""
    try:
        data = _read_remote_ends(video, size_bytes) if is_remote(video) else _read_ends(video)
    except OSError:
        return None
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_ends(video: str) -> bytes:
    with Path(video).open("rb") as file:
        start = file.read(END_BYTES)
        file.seek(max(file.seek(0, 2) - END_BYTES, 0))
        return start + file.read()


def _read_remote_ends(uri: str, size_bytes: int) -> bytes:
    with in_one_line(uri), filesystem_of(uri).open_input_file(bucket_path(uri)) as file:
        start = bytes(file.read(END_BYTES))
        file.seek(max(size_bytes - END_BYTES, 0))
        return start + bytes(file.read())
