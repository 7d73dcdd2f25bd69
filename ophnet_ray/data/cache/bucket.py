"""The shards that machines share in a bucket; each keeps those it needs in a folder of its own.

The bucket holds what a cache folder holds, under the same names: a shard, then its index. What it
lists is there for all; a shard on a machine's disk alone is not.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from ophnet_ray.data.cache.shards import ShardIndex, parse_shard_index
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import (
    check_writable,
    delete_object,
    list_objects,
    read_bytes,
    upload,
    write_object,
)
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.paths import join, name_of

INDEX_THREADS = 16
MARK_AGE_NS = 86_400 * 10**9
"""An index that was written more recently than that is not marked as used again."""
CLOCK = ".clock"

logger = logging.getLogger(__name__)


class CacheBucket:
    """Shards in a bucket.

    Args:
        uri: Their folder in the bucket.
        folder: Where this machine keeps them.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder

    def now_ns(self) -> int:
        """The time by the clock of the bucket, once it is known that it can be written.

        Raises:
            UserError: It cannot.
        """
        check_writable("--cache_dir", self.uri)
        write_object(join(self.uri, CLOCK), b"")
        return list_objects(self.uri)[CLOCK].mtime_ns

    def read_indexes(self, written_since_ns: int = 0) -> Iterator[ShardIndex]:
        """The indexes of the whole shards.

        Raises:
            StorageError: The bucket does not answer.
        """
        listed = list_objects(self.uri)
        names = [
            name
            for name, status in listed.items()
            if name.endswith(".json") and status.mtime_ns >= written_since_ns
        ]
        with ThreadPoolExecutor(INDEX_THREADS, thread_name_prefix="read-indexes") as pool:
            for name, text in zip(names, pool.map(self._read_index, names), strict=True):
                shard = f"{name.removesuffix('.json')}.arrow"
                if text is None or shard not in listed:
                    continue
                source = join(self.uri, shard)
                index = parse_shard_index(
                    text, self.folder / shard, listed[shard].size_bytes, source
                )
                if index is not None:
                    yield index

    def _read_index(self, name: str) -> bytes | None:
        try:
            # names tell contents: one that this machine has is the same
            kept = self.folder / name
            return kept.read_bytes() if kept.exists() else _remembered(join(self.uri, name))
        except FileNotFoundError:
            return None  # pruned in this moment

    def upload(self, shard: Path) -> str:
        """Share a shard that this machine has just written: all of it, then its index.

        Returns:
            Its URI.

        Raises:
            UserError: The bucket does not take it.
        """
        index = shard.with_suffix(".json")
        try:
            upload(shard, join(self.uri, shard.name))
            upload(index, join(self.uri, index.name))
        except StorageError as error:
            raise UserError(
                f"--cache_dir {error}; the same command goes on with what is there"
            ) from error
        return join(self.uri, shard.name)

    def mark_used(self, sources: Iterable[str], now_ns: int) -> None:
        """Note that a run needs these shards today: the time of a shard's index tells its last use.

        An object has no time that could be set, so that the index is written again, once a day.
        """
        listed = list_objects(self.uri)
        for shard in {name_of(source) for source in sources}:
            name = f"{shard.removesuffix('.arrow')}.json"
            if name in listed and now_ns - listed[name].mtime_ns > MARK_AGE_NS:
                text = self._read_index(name)
                if text is not None:
                    write_object(join(self.uri, name), text)

    def delete(self, shard: str) -> None:
        """Remove a shard: the index first, without which it does not exist for a reader."""
        delete_object(join(self.uri, f"{shard.removesuffix('.arrow')}.json"))
        delete_object(join(self.uri, shard))


@lru_cache(maxsize=4096)
def _remembered(uri: str) -> bytes:
    return read_bytes(uri)
