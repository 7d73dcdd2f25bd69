"""Videos of equal content under several names: one operation, whatever its files are called."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from ophnet_ray.storage.contents import hash_ends
from ophnet_ray.storage.files import stat_files

_THREADS = 16


def find_same_videos(videos: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of files of equal content, sorted; only files of equal size are read.

    Empty files, and files that cannot be read, are in no group.
    """
    sizes = _read_sizes(videos)
    num_of_size = Counter(sizes.values())
    twins = {video: size for video, size in sizes.items() if num_of_size[size] > 1}
    groups: dict[str, list[str]] = defaultdict(list)
    for video, content_id in _identify(twins).items():
        groups[content_id].append(video)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def read_content_ids(videos: Iterable[str]) -> dict[str, str]:
    """Return the size and a hash of both ends of each file, as text, by its path.

    It is the same for a file in a bucket and its copy on disk. Files that are empty or cannot be
    read are left out.
    """
    return _identify(_read_sizes(videos))


def find_known_videos(videos: Iterable[str], content_ids: Collection[str]) -> list[str]:
    """Return the files whose content is among those of ``read_content_ids``, sorted.

    Only files of a size that is known are read.
    """
    known_sizes = {content_id.partition("-")[0] for content_id in content_ids}
    sizes = _read_sizes(videos)
    found = _identify({video: size for video, size in sizes.items() if str(size) in known_sizes})
    return sorted(video for video, content_id in found.items() if content_id in content_ids)


def _read_sizes(videos: Iterable[str]) -> dict[str, int]:
    found = stat_files(set(videos))
    return {video: status.size_bytes for video, status in found.items() if status.size_bytes}


def _identify(sizes: Mapping[str, int]) -> dict[str, str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = pool.map(_hash_or_none, sizes, sizes.values())
        return {
            video: f"{sizes[video]}-{digest}"
            for video, digest in zip(sizes, hashes, strict=True)
            if digest is not None
        }


def _hash_or_none(video: str, size_bytes: int) -> str | None:
    try:
        return hash_ends(video, size_bytes)
    except OSError:
        return None
