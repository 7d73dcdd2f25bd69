"""Videos of equal content under several names: one operation, whatever its files are called."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ophnet_ray.storage.contents import hash_ends
from ophnet_ray.storage.files import stat_files

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
        ends = pool.map(lambda twin: _hash_or_none(twin[1], twin[0]), twins)
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
    digest = _hash_or_none(video, status.size_bytes)
    return None if digest is None else f"{status.size_bytes}-{digest}"


def _hash_or_none(video: str, size_bytes: int) -> str | None:
    try:
        return hash_ends(video, size_bytes)
    except OSError:
        return None
