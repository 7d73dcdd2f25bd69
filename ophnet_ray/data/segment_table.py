"""Segments of a table as columns: 44 bytes per row beside its texts, objects only where asked for.

Equal texts are kept once; a clip's name and path are its own, some 200 bytes more. Of millions of
rows, an object each would take ten times the memory, and a program's time to look through them.
Small users index the table, or walk through it, as through a list of segments; what handles a whole
data set reads the columns.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import eq
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import ROWS_AT_ONCE, TextColumn, join_columns
from ophnet_ray.hashing import hash_ids


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentTable(Sequence[Segment]):
    """Segments, a column for each of their parts.

    Attributes:
        names: Names of the rows: their ids, or what ids are made of, see ``has_timed_ids``.
        cases: Case of each row.
        videos: Path or URI of the video of each row.
        phases: Phase of each row.
        splits: Split of each row.
        starts_s: Start of each row, seconds, float64 (N,).
        ends_s: End of each row, seconds, float64 (N,).
        has_timed_ids: The id of a row is made of its name, its times and its phase.
        hashes: ``hashing.hash_ids`` of the rows' ids, (N,), if they are known.
    """

    names: TextColumn
    cases: TextColumn
    videos: TextColumn
    phases: TextColumn
    splits: TextColumn
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    has_timed_ids: bool = False
    hashes: NDArray[np.uint64] | None = None

    @classmethod
    def of_rows(cls, rows: Iterable[Segment]) -> Self:
        """Turn segments into columns."""
        found = list(rows)
        return cls(
            names=TextColumn.of_texts(row.segment_id for row in found),
            cases=TextColumn.of_texts(row.case_id for row in found),
            videos=TextColumn.of_texts(row.video for row in found),
            phases=TextColumn.of_texts(row.phase for row in found),
            splits=TextColumn.of_texts(row.split for row in found),
            starts_s=np.asarray([row.start_s for row in found], dtype=np.float64),
            ends_s=np.asarray([row.end_s for row in found], dtype=np.float64),
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts_s)

    @overload
    def __getitem__(self, rows: int) -> Segment: ...
    @overload
    def __getitem__(self, rows: slice) -> Self: ...
    def __getitem__(self, rows: int | slice) -> Segment | Self:
        """Return a row as a segment, or some rows as a table."""
        if isinstance(rows, slice):
            return self.take(rows)
        start_s, end_s = float(self.starts_s[rows]), float(self.ends_s[rows])
        name, phase = self.names[rows], self.phases[rows]
        segment_id = name_row(name, start_s, end_s, phase) if self.has_timed_ids else name
        case_id, video, split = self.cases[rows], self.videos[rows], self.splits[rows]
        return Segment(segment_id, case_id, video, start_s, end_s, phase, split)

    def __iter__(self) -> Iterator[Segment]:
        """Yield the rows as segments; each is made when it is its turn."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            part = self.take(slice(first, first + ROWS_AT_ONCE))
            yield from map(
                Segment,
                part.list_ids(),
                part.cases,
                part.videos,
                part.starts_s.tolist(),
                part.ends_s.tolist(),
                part.phases,
                part.splits,
            )

    def __eq__(self, other: object) -> bool:
        """Return True for a table, a list or a tuple of equal segments in the same order."""
        if not isinstance(other, SegmentTable | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        """Refuse, as a list does: equal tables may have other columns."""
        raise TypeError("a table of segments has no hash")

    def __repr__(self) -> str:
        """Return the rows as those of a list; of many, the first ones."""
        more = f", and {len(self) - 3} more" if len(self) > 3 else ""
        shown = ", ".join(map(repr, itertools.islice(self, 3)))
        return f"{type(self).__name__}({shown}{more})"

    def take(self, rows: Any) -> Self:
        """Return some rows.

        Args:
            rows: Index of an array: a slice, a mask (N,), or row numbers.
        """
        return replace(
            self,
            names=self.names.take(rows),
            cases=self.cases.take(rows),
            videos=self.videos.take(rows),
            phases=self.phases.take(rows),
            splits=self.splits.take(rows),
            starts_s=self.starts_s[rows],
            ends_s=self.ends_s[rows],
            hashes=None if self.hashes is None else self.hashes[rows],
        )

    def of_splits(self, splits: Collection[str]) -> Self:
        """Return the rows of some splits."""
        return self.take(self.splits.find(lambda split: split in splits))

    def with_splits(self, splits: TextColumn) -> Self:
        """Return the same rows with other splits."""
        return replace(self, splits=splits)

    def segment_ids(self) -> Iterator[str]:
        """Yield the id of each row; those of few rows are in memory at a time."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            yield from self.take(slice(first, first + ROWS_AT_ONCE)).list_ids()

    def find_ids(self, ids: Collection[str]) -> NDArray[np.bool_]:
        """Return a mask of the rows that have one of some ids, (N,)."""
        if not ids:
            return np.zeros(len(self), dtype=np.bool_)
        # of equal hashes, the ids are compared
        suspects = np.flatnonzero(np.isin(self.hash_ids(), hash_ids(ids)))
        found = np.zeros(len(self), dtype=np.bool_)
        found[suspects] = [each in ids for each in self.take(suspects).segment_ids()]
        return found

    def hash_ids(self) -> NDArray[np.uint64]:
        """Return ``hashing.hash_ids`` of the rows' ids, (N,)."""
        return hash_ids(self.segment_ids()) if self.hashes is None else self.hashes

    def list_ids(self) -> list[str]:
        """Return the ids of all rows; of many, see ``segment_ids``."""
        if not self.has_timed_ids:
            return list(self.names)
        times = zip(self.starts_s.tolist(), self.ends_s.tolist(), strict=True)
        return [
            name_row(name, start_s, end_s, phase)
            for name, (start_s, end_s), phase in zip(self.names, times, self.phases, strict=True)
        ]


def name_row(name: str, start_s: float, end_s: float, phase: str) -> str:
    """Return the id of a row of a table with times."""
    return f"{name}:{start_s:.10g}-{end_s:.10g}:{phase}"


def as_table(rows: Iterable[Segment]) -> SegmentTable:
    """Return rows as columns; a table is returned as it is."""
    return rows if isinstance(rows, SegmentTable) else SegmentTable.of_rows(rows)


def join_tables(tables: Sequence[SegmentTable]) -> SegmentTable:
    """Return the rows of several tables, one after the other."""
    filled = [table for table in tables if len(table)]
    if len(filled) == 1:
        return filled[0]
    has_timed_ids = bool(filled) and all(table.has_timed_ids for table in filled)

    def list_names(table: SegmentTable) -> TextColumn:
        own_form = table.has_timed_ids == has_timed_ids
        return table.names if own_form else TextColumn.of_texts(table.segment_ids())

    def join(name: str) -> TextColumn:
        return join_columns([getattr(table, name) for table in filled])

    none = np.empty(0)
    return SegmentTable(
        names=join_columns([list_names(table) for table in filled]),
        cases=join("cases"),
        videos=join("videos"),
        phases=join("phases"),
        splits=join("splits"),
        starts_s=np.concatenate([none, *(table.starts_s for table in filled)]),
        ends_s=np.concatenate([none, *(table.ends_s for table in filled)]),
        has_timed_ids=has_timed_ids,
    )


def sort_by_id(table: SegmentTable) -> NDArray[np.int64]:
    """Return the order of the rows by their ids, (N,), as Python sorts texts.

    Equal ids are sorted by the other texts of their rows.
    """
    if len(np.unique(table.hash_ids())) < len(table):
        rows = list(table)
        keys = [(row.segment_id, row.case_id, row.phase, row.split) for row in rows]
        return np.asarray(sorted(range(len(rows)), key=keys.__getitem__), dtype=np.int64)
    # texts in UTF-8 have the order of their characters
    joined, lengths = bytearray(), [np.zeros(1, dtype=np.int64)]
    for first in range(0, len(table), ROWS_AT_ONCE):
        ids = [text.encode() for text in table[first : first + ROWS_AT_ONCE].list_ids()]
        joined += b"".join(ids)
        lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
    ends = np.cumsum(np.concatenate(lengths))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(joined)]
    texts = pa.Array.from_buffers(pa.large_string(), len(table), buffers)
    # its `to_numpy` would import pandas
    return np.frombuffer(pc.array_sort_indices(texts).buffers()[1], dtype=np.int64)
