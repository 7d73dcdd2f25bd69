"""What lies in a cache folder, and removing what nobody uses."""

import fcntl
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.cache import FORMAT_VERSION, LOCK_FILE, lock_cache
from ophnet_ray.errors import UserError
from ophnet_ray.shards import ShardIndex, read_shard_index

SECONDS_A_DAY = 86_400.0
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
    try:
        with lock_cache(_blocks_folder(cache_dir), fcntl.LOCK_EX | fcntl.LOCK_NB):
            inventory = read_inventory(cache_dir)
            old = [shard for shard in inventory.shards if shard.used_s < limit_s]
            for shard in old:
                # the index first: a shard without one does not exist for a reader
                shard.index.shard.with_suffix(".json").unlink()
                shard.index.shard.unlink()
            left = [leftover for leftover in inventory.leftovers if leftover.written_s < limit_s]
            for leftover in left:
                leftover.path.unlink()
    except BlockingIOError as error:
        raise UserError(
            f"the cache {cache_dir} is being used by a run; prune it when the run is over"
        ) from error
    except OSError as error:
        raise UserError(f"the cache {cache_dir} cannot be pruned: {error}") from error
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
