"""Contents of a cache, on disk or in a bucket, and the removal of what no run uses."""

import itertools
import logging
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.catalog import CATALOG, Shelf
from ophnet_ray.data.cache.catalog_part import SUFFIX
from ophnet_ray.data.cache.segment_keys import FORMAT_VERSION
from ophnet_ray.data.cache.shard_folder import ShardFolder
from ophnet_ray.data.cache.shards import ShardIndex, read_shard_index
from ophnet_ray.data.cache.store import CACHE_VERSION, LOCK_FILE, VIDEO_ENDS, VIDEO_IDS
from ophnet_ray.errors import UserError
from ophnet_ray.storage.access import check_readable
from ophnet_ray.storage.copy_room import PINS, ROOM_LOCK, ROOM_TOTAL
from ophnet_ray.storage.files import delete_object, list_names, list_objects
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import is_remote, join
from ophnet_ray.storage.unfinished import LEFTOVER_AGE_S

logger = logging.getLogger(__name__)

SECONDS_PER_DAY = 86_400.0
MIN_BUCKET_DAYS = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard, its size with its index, and the last time a run started with it.

    In a bucket, the last use is exact to a day (see ``CacheBucket.mark_used``).
    """

    index: ShardIndex
    size_bytes: int
    used_s: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no run reads: a killed writer or an older version left it."""

    path: Path
    size_bytes: int
    written_s: float


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole shards of this version, most recently used first, and the leftovers."""

    shards: tuple[Shard, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards and leftovers."""
        shards_bytes = sum(shard.size_bytes for shard in self.shards)
        return shards_bytes + sum(leftover.size_bytes for leftover in self.leftovers)


def has_blocks(cache_dir: str) -> bool:
    """Return True if a cache holds a folder of decoded windows, whatever is in it."""
    return bool(list_names(join(cache_dir, CACHE_VERSION)))


def read_inventory(cache_dir: str | Path) -> Inventory:
    """List what a cache holds.

    Args:
        cache_dir: Folder or bucket URI.

    Raises:
        UserError: There is no cache, or the bucket does not answer.
    """
    if is_remote(cache_dir):
        return _read_bucket(str(cache_dir))
    return _read_folder(Path(cache_dir))


def prune(cache_dir: str | Path, unused_days: float) -> Inventory:
    """Remove the shards that no run of the last days started with, and leftovers of that age.

    Args:
        cache_dir: Folder or bucket URI.
        unused_days: Days; at least ``MIN_BUCKET_DAYS`` for a bucket, which has no locks.

    Returns:
        The removed shards and leftovers.

    Raises:
        UserError: There is no cache, a run is using it, or there are too few days for a bucket.
    """
    if is_remote(cache_dir):
        return _prune_bucket(str(cache_dir), unused_days)
    return _prune_folder(Path(cache_dir), unused_days)


def _read_folder(cache_dir: Path) -> Inventory:
    folder = _blocks_folder(cache_dir)
    shards = []
    for path in folder.glob("[!.]*.json"):
        index = read_shard_index(path)
        if index is not None:
            status = index.shard.stat()
            shards.append(Shard(index, status.st_size + path.stat().st_size, status.st_mtime))
    known = {shard.index.shard for shard in shards}
    known |= {path.with_suffix(".json") for path in known}
    known |= {
        folder / name for name in (LOCK_FILE, VIDEO_IDS, VIDEO_ENDS, PINS, ROOM_LOCK, ROOM_TOTAL)
    }
    older = [cache_dir / f"blocks-v{version}" for version in range(1, FORMAT_VERSION)]
    leftovers = [
        leftover
        for path in itertools.chain(
            _unread_parts((folder / CATALOG).glob("*")),
            *(each.glob("*") for each in (folder, *older)),
        )
        if path not in known and (leftover := _leftover(path)) is not None
    ]
    return _build_inventory(shards, leftovers)


def _unread_parts(files: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of a catalog that no run of this version reads."""
    return (path for path in files if not path.name.endswith(SUFFIX))


def _read_bucket(cache_dir: str) -> Inventory:
    check_readable("--cache_dir", cache_dir)
    bucket = _bucket_of(cache_dir)
    listed = list_objects(bucket.uri)
    if not listed:
        raise UserError(f"there is no cache in {cache_dir}; name it with --cache_dir")
    shards = []
    for index in bucket.read_indexes():
        data, text = listed[index.shard.name], listed[index.shard.with_suffix(".json").name]
        shards.append(Shard(index, data.size_bytes + text.size_bytes, text.mtime_ns / 1e9))
    known = {shard.index.shard.stem for shard in shards}
    unread = [name for name in listed if Path(name).stem not in known and not name.startswith(".")]
    parts = list_objects(join(bucket.uri, CATALOG))
    listed |= {f"{CATALOG}/{name}": status for name, status in parts.items()}
    unread += map(str, _unread_parts(Path(CATALOG, name) for name in parts))
    leftovers = [
        Leftover(Path(name), status.size_bytes, status.mtime_ns / 1e9)
        for name in unread
        if (status := listed[name]) and time.time() - status.mtime_ns / 1e9 > LEFTOVER_AGE_S
    ]
    return _build_inventory(shards, leftovers)


def _build_inventory(shards: Iterable[Shard], leftovers: Iterable[Leftover]) -> Inventory:
    by_use = sorted(shards, key=lambda shard: shard.used_s, reverse=True)
    return Inventory(tuple(by_use), tuple(leftovers))


def _leftover(path: Path) -> Leftover | None:
    """Return a file that is too old to be still written; None for others and deleted ones."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < LEFTOVER_AGE_S:
        return None
    return Leftover(path, status.st_size, status.st_mtime)


def _prune_folder(cache_dir: Path, unused_days: float) -> Inventory:
    catalog = _blocks_folder(cache_dir) / CATALOG
    busy = f"the cache {cache_dir} is being used by a run; prune it when the run is over"
    try:
        with exclusive(catalog.with_name(LOCK_FILE), busy=busy, is_also_shared=True):
            unused = _delete_unused(_read_folder(cache_dir), unused_days, Path.unlink)
            if unused.shards:
                _delete_catalog(ShardFolder(catalog.parent))
            return unused
    except OSError as error:
        raise UserError(f"the cache {cache_dir} cannot be pruned: {error}") from error


def _prune_bucket(cache_dir: str, unused_days: float) -> Inventory:
    if unused_days < MIN_BUCKET_DAYS:
        raise UserError(
            f"--days {unused_days:g}: a bucket does not show whether a run is using it; "
            f"give at least {MIN_BUCKET_DAYS}"
        )
    bucket = _bucket_of(cache_dir)

    def delete(path: Path) -> None:
        # a shard has its path on this machine, a leftover that below the bucket's folder
        name = path.name if path.is_absolute() else path.as_posix()
        delete_object(join(bucket.uri, name))

    unused = _delete_unused(_read_bucket(cache_dir), unused_days, delete)
    if unused.shards:
        _delete_catalog(bucket)
    return unused


def _delete_catalog(shelf: Shelf) -> None:
    """Delete the catalog, which knows shards that are gone; the next run writes it anew."""
    try:
        for part in shelf.fetch_parts():
            shelf.remove_part(part.name)
    except OSError as error:
        logger.warning("the catalog of the cache cannot be removed: %s", error)


def _bucket_of(cache_dir: str) -> CacheBucket:
    return CacheBucket(
        join(cache_dir, CACHE_VERSION), local_folder(cache_dir, None) / CACHE_VERSION
    )


def _delete_unused(
    inventory: Inventory, unused_days: float, delete: Callable[[Path], None]
) -> Inventory:
    """Delete what was last used or written more than so many days ago; return it."""
    limit_s = time.time() - unused_days * SECONDS_PER_DAY
    unused = Inventory(
        tuple(shard for shard in inventory.shards if shard.used_s < limit_s),
        tuple(leftover for leftover in inventory.leftovers if leftover.written_s < limit_s),
    )
    for shard in unused.shards:
        # the index first: a shard without one does not exist for a reader
        delete(shard.index.shard.with_suffix(".json"))
        delete(shard.index.shard)
    for leftover in unused.leftovers:
        delete(leftover.path)
    return unused


def _blocks_folder(cache_dir: Path) -> Path:
    folder = cache_dir / CACHE_VERSION
    if not folder.is_dir():
        raise UserError(f"there is no cache in {cache_dir}; name its folder with --cache_dir")
    return folder
