"""What lies in a cache folder, and removing what nobody uses."""

import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.shards import ShardIndex, read_shard_index
from ophnet_ray.data.cache.store import FORMAT_VERSION, LOCK_FILE
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import check_readable, delete_object, list_objects
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import join

SECONDS_A_DAY = 86_400.0
MIN_BUCKET_DAYS = 3
LEFTOVER_AGE_S = 3_600.0
"""Files without an index that are younger may still be being written."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard, its size with its index, and the last time a run started with it."""

    index: ShardIndex
    size_bytes: int
    used_s: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no run reads: what a killed writer left, or an older version wrote."""

    path: Path
    size_bytes: int
    written_s: float


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    num_shards: int
    num_leftovers: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole shards of this version, most recently used first, and the leftovers."""

    shards: tuple[Shard, ...]
    leftovers: tuple[Leftover, ...]


def read_inventory(cache_dir: Path) -> Inventory:
    """List what is there.

    Raises:
        UserError: There is no cache.
    """
    folder = _blocks_folder(cache_dir)
    shards = []
    for path in folder.glob("[!.]*.json"):
        index = read_shard_index(path)
        if index is not None:
            status = index.shard.stat()
            shards.append(Shard(index, status.st_size + path.stat().st_size, status.st_mtime))
    known = {shard.index.shard for shard in shards}
    known |= {path.with_suffix(".json") for path in known} | {folder / LOCK_FILE}
    older = [cache_dir / f"blocks-v{version}" for version in range(1, FORMAT_VERSION)]
    leftovers = [
        leftover
        for place in (folder, *older)
        for path in place.glob("*")
        if path not in known and (leftover := _leftover(path)) is not None
    ]
    by_use = sorted(shards, key=lambda shard: shard.used_s, reverse=True)
    return Inventory(tuple(by_use), tuple(leftovers))


def prune(cache_dir: Path, unused_days: float) -> Pruned:
    """Remove the shards that no run of the last days started with, and leftovers of that age.

    Raises:
        UserError: There is no cache, or a run is using it.
    """
    limit_s = time.time() - unused_days * SECONDS_A_DAY
    busy = f"the cache {cache_dir} is being used by a run; prune it when the run is over"
    try:
        with exclusive(_blocks_folder(cache_dir) / LOCK_FILE, busy=busy):
            inventory = read_inventory(cache_dir)
            old = [shard for shard in inventory.shards if shard.used_s < limit_s]
            for shard in old:
                # the index first: a shard without one does not exist for a reader
                shard.index.shard.with_suffix(".json").unlink()
                shard.index.shard.unlink()
            left = [leftover for leftover in inventory.leftovers if leftover.written_s < limit_s]
            for leftover in left:
                leftover.path.unlink()
    except OSError as error:
        raise UserError(f"the cache {cache_dir} cannot be pruned: {error}") from error
    size_bytes = sum(shard.size_bytes for shard in old)
    size_bytes += sum(leftover.size_bytes for leftover in left)
    return Pruned(len(old), len(left), size_bytes)


class BucketInventory:
    """What lies in the cache of a bucket.

    A shard's last use is the time of its index (see ``CacheBucket.mark_used``), exact to a day.

    Args:
        cache_dir: URI of the cache.
    """

    def __init__(self, cache_dir: str) -> None:
        self._cache_dir = cache_dir
        version = f"blocks-v{FORMAT_VERSION}"
        folder = local_folder(cache_dir, None) / version
        self._bucket = CacheBucket(join(cache_dir, version), folder)

    def read(self) -> Inventory:
        """List what is there.

        Raises:
            UserError: There is no cache, or the bucket does not answer.
        """
        check_readable("--cache_dir", self._cache_dir)
        listed = list_objects(self._bucket.uri)
        if not listed:
            raise UserError(f"there is no cache in {self._cache_dir}; name it with --cache_dir")
        shards = []
        for index in self._bucket.read_indexes():
            data, text = listed[index.shard.name], listed[index.shard.with_suffix(".json").name]
            size_bytes = data.size_bytes + text.size_bytes
            shards.append(Shard(index, size_bytes, text.mtime_ns / 1e9))
        known = {shard.index.shard.stem for shard in shards}
        leftovers = [
            Leftover(Path(name), status.size_bytes, status.mtime_ns / 1e9)
            for name, status in listed.items()
            if Path(name).stem not in known
            and not name.startswith(".")
            and time.time() - status.mtime_ns / 1e9 > LEFTOVER_AGE_S
        ]
        by_use = sorted(shards, key=lambda shard: shard.used_s, reverse=True)
        return Inventory(tuple(by_use), tuple(leftovers))

    def prune(self, unused_days: float) -> Pruned:
        """Remove the shards that no run of the last days started with, and leftovers of that age.

        Raises:
            UserError: Fewer days than tell whether a run is using a shard: buckets know no locks.
        """
        if unused_days < MIN_BUCKET_DAYS:
            raise UserError(
                f"--days {unused_days:g}: a bucket does not tell whether a run is using it; "
                f"give at least {MIN_BUCKET_DAYS}"
            )
        limit_s = time.time() - unused_days * SECONDS_A_DAY
        inventory = self.read()
        old = [shard for shard in inventory.shards if shard.used_s < limit_s]
        left = [leftover for leftover in inventory.leftovers if leftover.written_s < limit_s]
        for shard in old:
            self._bucket.delete(shard.index.shard.name)
        for leftover in left:
            delete_object(join(self._bucket.uri, leftover.path.name))
        size_bytes = sum(shard.size_bytes for shard in old)
        size_bytes += sum(leftover.size_bytes for leftover in left)
        return Pruned(len(old), len(left), size_bytes)


def _leftover(path: Path) -> Leftover | None:
    """A file that is so old that nobody is writing it; None for others, and what has just gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < LEFTOVER_AGE_S:
        return None
    return Leftover(path, status.st_size, status.st_mtime)


def _blocks_folder(cache_dir: Path) -> Path:
    folder = cache_dir / f"blocks-v{FORMAT_VERSION}"
    if not folder.is_dir():
        raise UserError(f"there is no cache in {cache_dir}; name its folder with --cache_dir")
    return folder
