"""Entries of the cache as columns: some 60 bytes each, an object only where one is asked for."""

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.cache.shards import CHECKSUM_BYTES, CacheEntry
from ophnet_ray.data.segments import RejectKind
from ophnet_ray.data.text_column import ROWS_AT_ONCE

NOWHERE = -1
"""Place of what is not there, as of the shard of a row that has no entry."""


class EntryKind(NamedTuple):
    """Fields of ``CacheEntry`` that many entries have in common, and whether they have checksums.

    An entry has one checksum per block, or none.
    """

    snippet_lengths: tuple[int, ...] = ()
    reason: str = ""
    kind: RejectKind | None = None
    is_truncated: bool = False
    has_checksums: bool = False

    @property
    def num_blocks(self) -> int:
        """Number of blocks of each entry."""
        return sum(self.snippet_lengths)


@dataclass(frozen=True, eq=False, kw_only=True)
class CacheEntries(Sequence[CacheEntry]):
    """Entries of N rows, without their keys; a row may have none.

    Attributes:
        shards: Index of each shard among ``places``, int32 (N,); ``NOWHERE`` without an entry.
        offsets: Byte of the shard at which the blocks begin, int64 (N,).
        kinds: Index of each row's kind among ``known_kinds``, int32 (N,).
        starts: Index of the first checksum of each row, int64 (N,); those of a row are adjacent.
        checksums: CRC-32 of blocks, uint32, in any order, as several rows may share them.
        places: Path on this machine of each shard, and its URI in a bucket or an empty text.
        known_kinds: The distinct kinds.
    """

    shards: NDArray[np.int32]
    offsets: NDArray[np.int64]
    kinds: NDArray[np.int32]
    starts: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    places: Sequence[tuple[str, str]]
    known_kinds: tuple[EntryKind, ...]

    @classmethod
    def none(cls, num_rows: int) -> Self:
        """Return rows without entries."""
        return cls(
            shards=np.full(num_rows, NOWHERE, dtype=np.int32),
            offsets=np.zeros(num_rows, dtype=np.int64),
            kinds=np.zeros(num_rows, dtype=np.int32),
            starts=np.zeros(num_rows, dtype=np.int64),
            checksums=np.empty(0, dtype=np.uint32),
            places=(),
            known_kinds=(EntryKind(),),
        )

    @staticmethod
    def of_entries(entries: Iterable[CacheEntry]) -> "CacheEntries":
        """Turn entries into columns."""
        rows = EntryRows()
        rows.extend(list(entries))
        return rows.to_columns()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.shards)

    @overload
    def __getitem__(self, index: int) -> CacheEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> CacheEntry | Self:
        """Return the entry of a row, its ``key`` empty as rows have none, or several rows.

        Raises:
            KeyError: The row has none.
        """
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if self.shards[index] == NOWHERE:
            raise KeyError(f"row {index} has no entry in the cache")
        path, source = self.places[self.shards[index]]
        kind = self.known_kinds[self.kinds[index]]
        start = self.starts[index]
        stop = start + kind.num_blocks * kind.has_checksums
        return CacheEntry(
            "",
            path,
            int(self.offsets[index]),
            kind.snippet_lengths,
            kind.reason,
            kind.kind,
            is_truncated=kind.is_truncated,
            source=source,
            checksums=self.checksums[start:stop].tobytes(),
        )

    @property
    def is_there(self) -> NDArray[np.bool_]:
        """Mask of the rows that have an entry, (N,)."""
        found: NDArray[np.bool_] = self.shards != NOWHERE
        return found

    @property
    def missing_rows(self) -> NDArray[np.int64]:
        """Rows that have no entry, ascending."""
        return np.flatnonzero(self.shards == NOWHERE)

    @cached_property
    def _blocks_by_kind(self) -> NDArray[np.int64]:
        return np.asarray([kind.num_blocks for kind in self.known_kinds], dtype=np.int64)

    def count_blocks(self) -> NDArray[np.int64]:
        """Return the number of blocks of each row, (N,)."""
        counted: NDArray[np.int64] = self._blocks_by_kind[self.kinds]
        return counted

    def are_set(self, name: str) -> NDArray[np.bool_]:
        """Return whether a field of each row's kind has another value than its default, (N,).

        False for a row without an entry.
        """
        default = getattr(EntryKind(), name)
        by_kind = [getattr(kind, name) != default for kind in self.known_kinds]
        found: NDArray[np.bool_] = np.asarray(by_kind, dtype=np.bool_)[self.kinds]
        return found & self.is_there

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return some rows; they share the checksums."""
        return replace(
            self,
            shards=self.shards[rows],
            offsets=self.offsets[rows],
            kinds=self.kinds[rows],
            starts=self.starts[rows],
        )

    def take_known(self, rows: NDArray[np.int64]) -> Self:
        """Return some rows; a negative number stands for one without an entry."""
        if not len(self):
            return type(self).none(len(rows))
        taken = self.take(np.maximum(rows, 0))
        taken.shards[rows < 0] = NOWHERE
        return taken

    def compact(self) -> Self:
        """Return the rows without the checksums and kinds that none of them uses."""
        has_some = np.flatnonzero(self.are_set("has_checksums"))
        _, first, numbers = np.unique(self.starts[has_some], return_index=True, return_inverse=True)
        distinct = self.take(has_some[first])
        sizes = distinct.count_blocks()
        starts = np.zeros(len(self), dtype=np.int64)
        starts[has_some] = (np.cumsum(sizes) - sizes)[numbers]
        is_used = np.zeros(len(self.known_kinds), dtype=np.bool_)
        is_used[self.kinds] = True
        known_kinds = tuple(itertools.compress(self.known_kinds, is_used.tolist()))
        return replace(
            self,
            kinds=(np.cumsum(is_used, dtype=np.int32) - 1)[self.kinds],
            starts=starts,
            checksums=distinct.join_checksums(),
            known_kinds=known_kinds or (EntryKind(),),
        )

    def replace_rows(self, rows: NDArray[np.int64], entries: Self) -> Self:
        """Return these rows with other entries in some of them.

        Args:
            rows: The rows that change, (M,).
            entries: Their new entries, (M,).
        """
        if not len(rows):
            return self
        chosen = np.arange(len(self))
        chosen[rows] = len(self) + np.arange(len(rows))
        return self.join([self, entries]).take(chosen)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of several tables, one after the other."""
        if len(parts) == 1:
            return parts[0]
        places: dict[tuple[str, str], int] = {}
        known_kinds: dict[EntryKind, int] = {}
        shards, kinds, starts, num_checksums = [], [], [], 0
        for part in parts:
            numbers = [places.setdefault(place, len(places)) for place in part.places]
            # NOWHERE, the last index, stays what it is
            shards.append(np.asarray([*numbers, NOWHERE], dtype=np.int32)[part.shards])
            new_kinds = [known_kinds.setdefault(k, len(known_kinds)) for k in part.known_kinds]
            kinds.append(np.asarray(new_kinds, dtype=np.int32)[part.kinds])
            starts.append(part.starts + num_checksums)
            num_checksums += len(part.checksums)
        none = cls.none(0)
        return cls(
            shards=np.concatenate([none.shards, *shards]),
            offsets=np.concatenate([none.offsets, *(part.offsets for part in parts)]),
            kinds=np.concatenate([none.kinds, *kinds]),
            starts=np.concatenate([none.starts, *starts]),
            checksums=np.concatenate([none.checksums, *(part.checksums for part in parts)]),
            places=tuple(places),
            known_kinds=tuple(known_kinds) or none.known_kinds,
        )

    def join_checksums(self) -> NDArray[np.uint32]:
        """Return the checksums of all blocks, one row after the other; 0 for rows without any."""
        counts = self.count_blocks()
        joined = np.zeros(int(counts.sum()), dtype="<u4")
        has_some = self.are_set("has_checksums")
        stops = np.cumsum(counts)
        for first in range(0, len(self), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            some = has_some[rows]
            own = counts[rows][some]
            within = np.arange(int(own.sum())) - np.repeat(np.cumsum(own) - own, own)
            source = np.repeat(self.starts[rows][some], own) + within
            target = np.repeat(stops[rows][some] - own, own) + within
            joined[target] = self.checksums[source]
        return joined


class EntryRows:
    """Columns of entries that grow."""

    def __init__(self) -> None:
        self._shards, self._kinds = array("i"), array("i")
        self._offsets, self._starts = array("q"), array("q")
        self._checksums = bytearray()
        self._places: dict[tuple[str, str], int] = {}
        self._known_kinds: dict[tuple[Any, ...], int] = {}
        self._sizes: list[int] = []  # bytes of checksums of each kind

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._shards)

    @property
    def num_checksums(self) -> int:
        """Number of checksums of all entries."""
        return len(self._checksums) // CHECKSUM_BYTES

    @property
    def num_kinds(self) -> int:
        """Number of distinct kinds."""
        return len(self._known_kinds)

    def extend(self, entries: Sequence[CacheEntry], place: tuple[str, str] | None = None) -> None:
        """Add entries.

        Args:
            entries: The entries.
            place: Path and URI of their shard, instead of the entries' own.

        Raises:
            ValueError: One has other checksums than one per block; none was added.
            OverflowError, TypeError: One has values that do not fit or of other types; none was
                added.
        """
        if not entries:
            if place is not None:
                self._places.setdefault(place, len(self._places))
            return
        offsets = array("q", [entry.offset for entry in entries])
        kinds = [self._number_kind(entry) for entry in entries]
        if place is not None:
            shard = self._places.setdefault(place, len(self._places))
            self._shards.extend([shard] * len(entries))
        else:
            places = self._places
            own = ((entry.path, entry.source) for entry in entries)
            self._shards.extend([places.setdefault(each, len(places)) for each in own])
        self._offsets += offsets
        self._kinds.extend(kinds)
        sizes = [len(entry.checksums) // CHECKSUM_BYTES for entry in entries]
        self._starts.extend(itertools.accumulate(sizes[:-1], initial=self.num_checksums))
        self._checksums += b"".join([entry.checksums for entry in entries])

    def _number_kind(self, entry: CacheEntry) -> int:
        """Return the number of an entry's kind.

        Raises:
            ValueError: It has other checksums than one per block.
            TypeError: Its kind has values of other types.
        """
        checksums = entry.checksums
        # a plain tuple: millions of entries have one of few kinds
        fields = (
            entry.snippet_lengths, entry.reason, entry.kind, entry.is_truncated, bool(checksums)
        )  # fmt: skip
        number = self._known_kinds.get(fields)
        if number is None:
            size = CHECKSUM_BYTES * sum(entry.snippet_lengths) * bool(checksums)
            number = self._known_kinds[fields] = len(self._known_kinds)
            self._sizes.append(size)
        if len(checksums) != self._sizes[number]:
            raise ValueError(f"{len(checksums)} bytes of checksums for {fields[0]} blocks")
        return number

    def to_columns(self) -> CacheEntries:
        """Return what was added so far."""
        return CacheEntries(
            shards=np.array(self._shards, dtype=np.int32),
            offsets=np.array(self._offsets, dtype=np.int64),
            kinds=np.array(self._kinds, dtype=np.int32),
            starts=np.array(self._starts, dtype=np.int64),
            checksums=np.frombuffer(bytes(self._checksums), dtype="<u4"),
            places=tuple(self._places),
            known_kinds=tuple(EntryKind(*kind) for kind in self._known_kinds) or (EntryKind(),),
        )
