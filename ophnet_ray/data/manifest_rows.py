"""Usable segments of a manifest: rows of the table, labels, and entries of the cache."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.segments import Segment


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """A usable segment: its label (index of its phase) and its blocks."""

    segment: Segment
    label: int
    entry: CacheEntry


@dataclass(frozen=True, eq=False)
class ManifestRows(Sequence[ManifestItem]):
    """Items of N segments as columns; an item is made where one is asked for.

    Attributes:
        segments: The segments, (N,).
        labels: Their labels, int64 (N,).
        entries: Their entries, (N,).
    """

    segments: SegmentTable
    labels: NDArray[np.int64]
    entries: CacheEntries

    @classmethod
    def of_items(cls, items: Iterable[ManifestItem]) -> Self:
        """Turn items into columns; columns are returned as they are."""
        if isinstance(items, cls):
            return items
        found = list(items)
        return cls(
            SegmentTable.of_rows(item.segment for item in found),
            np.asarray([item.label for item in found], dtype=np.int64),
            CacheEntries.of_entries(item.entry for item in found),
        )

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> ManifestItem: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> ManifestItem | Self:
        """Return an item, or some rows."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return ManifestItem(self.segments[index], int(self.labels[index]), self.entries[index])

    def __iter__(self) -> Iterator[ManifestItem]:
        """Yield the items; each is made when it is its turn."""
        return map(ManifestItem, self.segments, self.labels.tolist(), self.entries)

    def __eq__(self, other: object) -> bool:
        """Return True for a sequence of equal items in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return some rows."""
        return type(self)(self.segments.take(rows), self.labels[rows], self.entries.take(rows))

    def of_split(self, split: str) -> Self:
        """Return the rows of a split."""
        return self.take(np.flatnonzero(self.segments.splits.equal(split)))

    def measure_lengths(self) -> NDArray[np.int64]:
        """Return the annotated milliseconds of each segment, at least 1, int64 (N,).

        Clips have no annotated end: where there is one, the lengths are those that were decoded, in
        blocks.
        """
        seconds = self.segments.ends_s - self.segments.starts_s
        if not np.isfinite(seconds).all():
            return self.entries.count_blocks()
        milliseconds: NDArray[np.float64] = np.rint(seconds * 1000)
        return np.maximum(milliseconds.astype(np.int64), 1)
