"""What lies in a cache folder, and removing what nobody uses."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.cache import FORMAT_VERSION, open_lock
from ophnet_ray.errors import UserError
from ophnet_ray.shards import ShardIndex, read_shard_index

SECONDS_A_DAY = 86_400.0
LEFTOVER_AGE_S = 3_600.0
"""Files without an index that are younger may still be being written."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard, its size with its index, and the last time a run started with it."""

    index: ShardIndex
    size_bytes: int
    used_s: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no run reads: what a killed writer left, or another format version wrote."""

    path: Path
    size_bytes: int
    written_s: float


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    num_shards: int
    num_leftovers: int
    size_bytes: int


def list_shards(cache_dir: Path) -> list[Shard]:
    """The whole shards of this version, most recently used first.

    Raises:
        UserError: There is no cache.
    """
    folder = _blocks_folder(cache_dir)
    shards = []
    for path in folder.glob("*.json"):
        index = read_shard_index(path)
        if index is not None:
            status = index.shard.stat()
            shards.append(Shard(index, status.st_size + path.stat().st_size, status.st_mtime))
    return sorted(shards, key=lambda shard: shard.used_s, reverse=True)


def list_leftovers(cache_dir: Path) -> list[Leftover]:
    """Files that no run reads and none is writing."""
    folder = _blocks_folder(cache_dir)
    known = {shard.index.shard for shard in list_shards(cache_dir)}
    known |= {path.with_suffix(".json") for path in known}
    others = [path for path in cache_dir.glob("blocks-v*/*") if path.parent != folder]
    ours = [path for path in folder.iterdir() if path not in known and path.name != ".in-use"]
    found = []
    for path in (*others, *ours):
        if path.is_file():
            status = path.stat()
            if path.parent != folder or time.time() - status.st_mtime > LEFTOVER_AGE_S:
                found.append(Leftover(path, status.st_size, status.st_mtime))
    return found


def prune(cache_dir: Path, unused_days: float) -> Pruned:
    """Remove the shards that no run of the last days started with, and all leftovers.

    Raises:
        UserError: There is no cache, or a run is using it.
    """
    with _alone(cache_dir):
        limit_s = time.time() - unused_days * SECONDS_A_DAY
        old = [shard for shard in list_shards(cache_dir) if shard.used_s < limit_s]
        leftovers = list_leftovers(cache_dir)
        for shard in old:
            # the index first: a shard without one does not exist for a reader
            shard.index.shard.with_suffix(".json").unlink()
            shard.index.shard.unlink()
        for leftover in leftovers:
            leftover.path.unlink()
    size_bytes = sum(shard.size_bytes for shard in old) + sum(x.size_bytes for x in leftovers)
    return Pruned(len(old), len(leftovers), size_bytes)


@contextmanager
def _alone(cache_dir: Path) -> Iterator[None]:
    with open_lock(_blocks_folder(cache_dir)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"the cache {cache_dir} is being used by a run; prune it when the run is over"
            ) from error
        yield


def _blocks_folder(cache_dir: Path) -> Path:
    folder = cache_dir / f"blocks-v{FORMAT_VERSION}"
    if not folder.is_dir():
        raise UserError(f"there is no cache in {cache_dir}; name its folder with --cache_dir")
    return folder
