"""Features in a cache, on disk or in a bucket, and the removal of what no run uses."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ophnet_ray.data.cache.inventory import MIN_BUCKET_DAYS, SECONDS_PER_DAY
from ophnet_ray.data.features.encoding import Encoding
from ophnet_ray.data.features.sequence import SUFFIX
from ophnet_ray.data.features.store import ENCODING_FILE, FEATURES_FOLDER, LOCK_FILE
from ophnet_ray.errors import UserError
from ophnet_ray.storage.access import check_readable
from ophnet_ray.storage.files import FileStatus, delete_object, list_objects, read_bytes
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import is_remote, join
from ophnet_ray.storage.records import parse_record
from ophnet_ray.storage.unfinished import LEFTOVER_AGE_S, UNFINISHED


@dataclass(frozen=True, slots=True)
class EncodedVideos:
    """Features of one encoding.

    Attributes:
        key: Name of the folder.
        encoding: Its description; None where that is missing or damaged.
        num_videos: Files of features.
        size_bytes: Bytes of all files.
        used_s: Time of the last use, or of the last file; in a bucket exact to a day.
    """

    key: str
    encoding: Encoding | None
    num_videos: int
    size_bytes: int
    used_s: float


def read_features_inventory(cache_dir: str) -> tuple[EncodedVideos, ...]:
    """List the features in a cache, most recently used first; none if there is no such cache.

    Raises:
        UserError: The bucket does not answer.
    """
    if is_remote(cache_dir):
        check_readable("--cache_dir", cache_dir)
    root = join(cache_dir, FEATURES_FOLDER)
    folders: dict[str, dict[str, FileStatus]] = {}
    for path, status in _list_files(root).items():
        parts = PurePosixPath(path).parts
        if len(parts) == 2:
            folders.setdefault(parts[0], {})[parts[1]] = status
    found = [_describe(root, key, files) for key, files in folders.items()]
    return tuple(sorted(found, key=lambda each: each.used_s, reverse=True))


def prune_features(cache_dir: str, unused_days: float) -> tuple[EncodedVideos, ...]:
    """Remove the features of encodings that nobody has looked up in the last days.

    Args:
        cache_dir: Folder or bucket URI.
        unused_days: Days; at least ``MIN_BUCKET_DAYS`` for a bucket, which has no locks.

    Returns:
        What was removed.

    Raises:
        UserError: A run is using the features, or there are too few days for a bucket.
    """
    root = join(cache_dir, FEATURES_FOLDER)
    if is_remote(cache_dir):
        if unused_days < MIN_BUCKET_DAYS:
            raise UserError(
                f"--days {unused_days:g}: a bucket does not show whether a run is using it; "
                f"give at least {MIN_BUCKET_DAYS}"
            )
        return _remove_unused(cache_dir, root, unused_days)
    if not Path(root).is_dir():
        return ()
    busy = f"the features in {cache_dir} are being used; prune them when the run is over"
    try:
        with exclusive(Path(root) / LOCK_FILE, busy=busy, is_also_shared=True):
            return _remove_unused(cache_dir, root, unused_days)
    except OSError as error:
        raise UserError(f"the cache {cache_dir} cannot be pruned: {error}") from error


def _remove_unused(cache_dir: str, root: str, unused_days: float) -> tuple[EncodedVideos, ...]:
    limit_s = time.time() - unused_days * SECONDS_PER_DAY
    unused = tuple(e for e in read_features_inventory(cache_dir) if e.used_s < limit_s)
    keys = {each.key for each in unused}
    for path in _list_files(root):
        parts = PurePosixPath(path).parts
        is_leftover = parts[-1].startswith(UNFINISHED) and _age_s(root, path) > LEFTOVER_AGE_S
        if parts[0] in keys or is_leftover:
            _delete(join(root, path))
    if not is_remote(root):
        for key in keys:
            with suppress(OSError):  # a lock file that a killed process left in it
                (Path(root) / key).rmdir()
    return unused


def _delete(path: str) -> None:
    if is_remote(path):
        delete_object(path)
    else:
        Path(path).unlink(missing_ok=True)


def _age_s(root: str, path: str) -> float:
    if is_remote(root):
        return 0.0  # a bucket has whole objects only
    return time.time() - (Path(root) / path).stat().st_mtime


def _list_files(root: str) -> dict[str, FileStatus]:
    """List the files below a folder by relative path; one that does not exist is empty."""
    if is_remote(root):
        return list_objects(root, recursive=True)
    found = {}
    for path in Path(root).glob("*/*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file():
                name = path.relative_to(root).as_posix()
                found[name] = FileStatus(status.st_size, status.st_mtime_ns)
    return found


def _describe(root: str, key: str, files: Mapping[str, FileStatus]) -> EncodedVideos:
    try:
        content = read_bytes(join(join(root, key), ENCODING_FILE))
        encoding = Encoding.from_dict(parse_record(content))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        encoding = None
    return EncodedVideos(
        key,
        encoding,
        sum(name.endswith(SUFFIX) and not name.startswith(".") for name in files),
        sum(status.size_bytes for status in files.values()),
        max(status.mtime_ns for status in files.values()) / 1e9,
    )
