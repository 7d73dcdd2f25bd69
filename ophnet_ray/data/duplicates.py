"""Videos of equal content under several names: one operation, whatever its files are called."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from ophnet_ray.storage.contents import identify_ends
from ophnet_ray.storage.files import FileStatus, find_status

_THREADS = 16


def find_same_videos(
    videos: Iterable[str], files: Mapping[str, FileStatus] | None = None
) -> list[tuple[str, ...]]:
    """Return groups of files of equal content, sorted; only files of equal size are read.

    Empty files, and files that cannot be read, are in no group.

    Args:
        videos: Paths and URIs.
        files: State of the files, as far as it is known.
    """
    found = find_status(videos, files)
    num_of_size = Counter(status.size_bytes for status in found.values())
    twins = {v: status for v, status in found.items() if num_of_size[status.size_bytes] > 1}
    groups: dict[str, list[str]] = defaultdict(list)
    for video, content_id in _identify(twins).items():
        groups[content_id].append(video)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def read_content_ids(videos: Iterable[str]) -> dict[str, str]:
    """Return the size and a hash of both ends of each file, as text, by its path.

    It is the same for a file in a bucket and its copy on disk. Files that are empty or cannot be
    read are left out.
    """
    return _identify(find_status(videos))


def find_known_videos(videos: Iterable[str], content_ids: Collection[str]) -> list[str]:
    """Return the files whose content is among those of ``read_content_ids``, sorted.

    Only files of a size that is known are read.
    """
    known_sizes = {content_id.partition("-")[0] for content_id in content_ids}
    status = find_status(videos)
    found = _identify({v: s for v, s in status.items() if str(s.size_bytes) in known_sizes})
    return sorted(video for video, content_id in found.items() if content_id in content_ids)


def _identify(files: Mapping[str, FileStatus]) -> dict[str, str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        texts = pool.map(_identify_or_none, files, files.values())
        return {video: text for video, text in zip(files, texts, strict=True) if text is not None}


def _identify_or_none(video: str, status: FileStatus) -> str | None:
    try:
        return identify_ends(video, status)
    except OSError:
        return None
