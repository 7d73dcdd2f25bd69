"""Part of the catalog in memory: entries of many shards as columns, in the order of their keys."""

import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.cache.entries import CacheEntries, EntryRows
from ophnet_ray.data.cache.key_columns import KEY_BYTES, KeyColumns, KeyJoin, parse_key
from ophnet_ray.data.cache.shards import CHECKSUM_BYTES, ShardIndex
from ophnet_ray.data.video.container import CODEC_VERSIONS

_BYTES_PER_SHARD, _BYTES_PER_KIND, _EMPTY_BYTES = 150, 80, 24_576
"""Typical sizes in a file, and that of one without entries."""
OUR_CODEC = json.dumps(CODEC_VERSIONS, sort_keys=True)


class Stamp(NamedTuple):
    """State of a shard's two files; equal values mean unchanged files.

    ``mtime_ns`` is the time of the index. In a bucket it is that of the shard, since the index is
    written again at its use; whole seconds, as S3 gives them for a single object.
    """

    size_bytes: int
    index_bytes: int
    mtime_ns: int


class CatalogedShard(NamedTuple):
    """A shard as it was when the catalog read its index; ``name`` has no suffix."""

    name: str
    stamp: Stamp
    codec: str

    @property
    def crc(self) -> int:
        """CRC-32 of the shard's name and state."""
        return zlib.crc32(repr(tuple(self)).encode())


@dataclass(frozen=True, slots=True)
class Matches:
    """Entries that were found for some rows of keys, each row at most once.

    Attributes:
        rows: Rows of the keys, (M,).
        entries: Their entries, (M,), without the places of the shards.
        shards: The shards that ``entries.shards`` numbers.
    """

    rows: NDArray[np.int64]
    entries: CacheEntries
    shards: tuple[CatalogedShard, ...]


@dataclass(frozen=True, eq=False)
class PartColumns:
    """Entries with their keys, ascending, and their shards.

    Attributes:
        keys: The keys, (N,); the same one may occur in several shards.
        entries: The entries, (N,), without the places of the shards.
        shards: The shards that ``entries.shards`` numbers.
    """

    keys: KeyColumns
    entries: CacheEntries
    shards: tuple[CatalogedShard, ...]

    def search(self, join: KeyJoin) -> Iterator[Matches]:
        """Yield the entries of keys; the same key may have several.

        Rejects of another codec are left out: this one may read the videos.
        """
        is_ours = np.asarray([shard.codec == OUR_CODEC for shard in self.shards], dtype=np.bool_)
        for rows, places in join.match(self.keys):
            entries = self.entries.take(places)
            is_valid = is_ours[entries.shards] | ~entries.are_set("reason")
            chosen = np.flatnonzero(is_valid)
            # whoever keeps them does not keep the whole part
            yield Matches(rows[chosen], entries.take(chosen).compact(), self.shards)

    @cached_property
    def size_bytes(self) -> int:
        """Approximate size of its file."""
        entries = self.entries
        return _estimate_bytes(
            len(entries), len(entries.checksums), len(self.shards), len(entries.known_kinds)
        )

    def leave_out(self, names: Collection[str]) -> Self:
        """Return the part without some shards."""
        is_kept = np.asarray([shard.name not in names for shard in self.shards], dtype=np.bool_)
        if is_kept.all():
            return self
        rows = np.flatnonzero(is_kept[self.entries.shards])
        entries = self.entries.take(rows).compact()
        numbers = (np.cumsum(is_kept) - 1).astype(np.int32)
        entries = replace(entries, shards=numbers[entries.shards])
        shards = tuple(shard for shard in self.shards if shard.name not in names)
        return type(self)(self.keys.take(rows), entries, shards)

    def join(self, other: Self) -> Self:
        """Return the shards of both, and of a shard that both know, what this part knows."""
        other = other.leave_out({shard.name for shard in self.shards})
        parts = [
            replace(part.entries, places=tuple((shard.name, "") for shard in part.shards))
            for part in (self, other)
        ]
        keys, entries = self.keys.join(other.keys), CacheEntries.join(parts)
        return type(self)(
            keys.take(keys.order), entries.take(keys.order), self.shards + other.shards
        )


class PartBuilder:
    """Part that grows by one shard at a time."""

    def __init__(self) -> None:
        self._keys, self._rows = bytearray(), EntryRows()
        self._shards: list[CatalogedShard] = []

    @property
    def size_bytes(self) -> int:
        """Approximate size of its file."""
        rows = self._rows
        return _estimate_bytes(len(rows), rows.num_checksums, len(self._shards), rows.num_kinds)

    def add(self, index: ShardIndex, stamp: Stamp) -> None:
        """Add the entries of a shard, but for those that no segment can have as its key.

        Raises:
            ValueError, OverflowError, TypeError: An entry does not fit; nothing was added.
        """
        shard = CatalogedShard(index.shard.stem, stamp, json.dumps(index.codec, sort_keys=True))
        keyed = [(key, e) for e in index.entries if (key := _key_or_none(e.key)) is not None]
        self._rows.extend([entry for _, entry in keyed], (shard.name, ""))
        self._keys += b"".join([key for key, _ in keyed])
        self._shards.append(shard)

    def finish(self) -> PartColumns:
        """Return what was added since the last call, and begin anew; nothing is held twice."""
        keys = KeyColumns.of_bytes(self._keys)
        entries = self._rows.to_columns().take(keys.order)
        shards = tuple(self._shards)
        self._keys, self._rows, self._shards = bytearray(), EntryRows(), []
        return PartColumns(keys.take(keys.order), entries, shards)


def _estimate_bytes(num_entries: int, num_checksums: int, num_shards: int, num_kinds: int) -> int:
    entries = 2 * KEY_BYTES * num_entries + CHECKSUM_BYTES * num_checksums
    return entries + _BYTES_PER_SHARD * num_shards + _BYTES_PER_KIND * num_kinds + _EMPTY_BYTES


def _key_or_none(text: str) -> bytes | None:
    try:
        return parse_key(text)
    except ValueError:
        return None
