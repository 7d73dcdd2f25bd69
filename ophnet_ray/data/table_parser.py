"""Rows of an annotation table → columns of segments, many rows at a time.

Texts that came before, as those of a video's other rows, are not validated again, and a row of
known texts takes no object. Every other row goes through ``RowParser``, which says what is wrong.
A clip is a row of its own: what it means is not remembered for another row.
"""

import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.row_parser import RowParser, name_column
from ophnet_ray.data.segment_table import SegmentTable, name_row
from ophnet_ray.data.table_file import RowErrors, TableFile
from ophnet_ray.data.text_column import ROWS_AT_ONCE, TextColumn
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_ids
from ophnet_ray.wording import say_count

Row = tuple[int, Sequence[str]]
"""Number of a row's line, and its values."""
_PLACE, _PHASE = ("video_path", "video_id", "case_id"), ("phase_id", "phase")
_READ = (*_PLACE, *_PHASE, "split", "start", "end")


class _Numbering:
    """Numbers of texts, in the order in which they first came."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        number = self._number_of.setdefault(text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        return number


class _Listing:
    """Numbers of texts of which hardly two are equal: each is a new one."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1


class TableParser:
    """Rows of one table, validated and collected.

    Args:
        columns: Columns of the table.
        parser: Validates single rows.
        where: File, or another word for the table, for messages.
    """

    def __init__(self, columns: Sequence[str], parser: RowParser, where: str) -> None:
        self._parser = parser
        self._columns = [name for name in _READ if name in columns]
        self._pick = itemgetter(*map(list(columns).index, self._columns)) if columns else tuple
        self._errors = RowErrors(where)
        self._place = [name for name in _PLACE if name in columns]
        self._phase = [name for name in _PHASE if name in columns]
        if parser.rule == "name":  # a case is told by the name of the clip and its phase
            self._place += self._phase
        self._has_times, self._has_splits = "start" in columns, "split" in columns
        numbering = _Numbering if self._has_times else _Listing
        self._names: _Numbering | _Listing = numbering()
        self._videos: _Numbering | _Listing = numbering()
        self._cases, self._phases, self._splits = _Numbering(), _Numbering(), _Numbering()
        # place: name, case and video of a row; arrays, since a table has as many as it has clips
        self._name_of_place, self._case_of_place = array("i"), array("i")
        self._video_of_place = array("i")
        # by the texts of a row: what they were found to mean; the place of a clip is not kept
        self._place_of: dict[tuple[str, ...], int] = {}
        self._phase_of: dict[tuple[str, ...], int] = {}
        self._phase_lines: dict[tuple[str, ...], int] = {}
        self._split_of: dict[str, int] = {} if self._has_splits else {"": self._splits.number("")}
        self._number_of: tuple[Mapping[Any, int], ...] = (
            self._place_of,
            self._phase_of,
            self._split_of,
        )
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Validate rows; the errors are kept."""
        # columns that nobody reads, as long notes, are let go at once
        picked = ((line, self._pick(values)) for line, values in rows)
        while chunk := list(itertools.islice(picked, ROWS_AT_ONCE)):
            self._add_chunk(*zip(*chunk, strict=True))

    def _add_chunk(self, lines: Sequence[int], rows: Sequence[Sequence[str]]) -> None:
        texts = dict(zip(self._columns, zip(*rows, strict=True), strict=True))
        num_rows = len(rows)
        keys = (
            list(zip(*(texts[name] for name in self._place), strict=True)),
            list(zip(*(texts[name] for name in self._phase), strict=True)),
            texts.get("split", ("",) * num_rows),
        )
        starts_s, ends_s = np.zeros(num_rows), np.full(num_rows, np.inf)
        has_right_times = np.ones(num_rows, dtype=np.bool_)
        if self._has_times:
            starts_s, ends_s = _read_seconds(texts["start"]), _read_seconds(texts["end"])
            has_right_times = (starts_s >= 0) & (starts_s < ends_s) & np.isfinite(ends_s)
        is_right = has_right_times.copy()
        num_places = len(self._name_of_place)
        for row in self._find_unknown(keys, has_right_times):
            own = keys[0][row], keys[1][row], keys[2][row]
            is_right[row] = (has_right_times[row] and self._is_known(*own)) or self._validate(
                lines[row], dict(zip(self._columns, rows[row], strict=True)), *own
            )
        places, phases, splits = (
            _look_up(number_of, own) for number_of, own in zip(self._number_of, keys, strict=True)
        )
        if not self._has_times:
            places[is_right] = np.arange(num_places, len(self._name_of_place), dtype=np.int32)
        columns: dict[str, NDArray[Any]] = {
            "lines": np.asarray(lines, dtype=np.int64),
            "places": places,
            "phases": phases,
            "splits": splits,
            "starts_s": starts_s,
            "ends_s": ends_s,
        }
        if not is_right.all():
            columns = {name: column[is_right] for name, column in columns.items()}
        columns["hashes"] = hash_ids(self._make_ids(columns))
        for name, column in columns.items():
            self._parts.setdefault(name, []).append(column)

    def _find_unknown(
        self, keys: Sequence[Sequence[Any]], has_right_times: NDArray[np.bool_]
    ) -> list[int]:
        """Return the rows that nothing like them has come before, or whose times are wrong."""
        is_known = has_right_times.copy()
        for number_of, own in zip(self._number_of, keys, strict=True):
            is_known &= _look_up(number_of, own) >= 0
        unknown: list[int] = np.flatnonzero(~is_known).tolist()
        return unknown

    def _is_known(self, place: tuple[str, ...], phase: tuple[str, ...], split: str) -> bool:
        return place in self._place_of and phase in self._phase_of and split in self._split_of

    def _validate(
        self,
        line: int,
        values: Mapping[str, str],
        place: tuple[str, ...],
        phase: tuple[str, ...],
        split: str,
    ) -> bool:
        """Validate a row and remember what its texts mean; return False if it is wrong."""
        try:
            segment = self._parser.parse(values)
        except UserError as error:
            self._errors.add(line, error)
            return False
        if place not in self._place_of:
            if self._has_times:
                self._place_of[place] = len(self._name_of_place)
            self._name_of_place.append(self._names.number(values[name_column(values)]))
            self._case_of_place.append(self._cases.number(segment.case_id))
            self._video_of_place.append(self._videos.number(segment.video))
        self._phase_of.setdefault(phase, self._phases.number(segment.phase))
        self._phase_lines.setdefault(phase, line)
        self._split_of.setdefault(split, self._splits.number(segment.split))
        return True

    def _make_ids(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[str]:
        names = self._names.texts
        found = (names[self._name_of_place[place]] for place in columns["places"].tolist())
        if not self._has_times:
            return found
        phases = self._phases.texts
        own_phases = (phases[phase] for phase in columns["phases"].tolist())
        return map(
            name_row, found, columns["starts_s"].tolist(), columns["ends_s"].tolist(), own_phases
        )

    def list_phase_names(self) -> dict[str, dict[str, int]]:
        """Return the names of each phase id, with its first line; none without both columns."""
        names: dict[str, dict[str, int]] = {}
        if len(self._phase) == len(_PHASE):
            for (phase_id, name), line in self._phase_lines.items():
                names.setdefault(phase_id, {})[name] = line
        return names

    def finish(self, ragged: RowErrors) -> tuple[SegmentTable, NDArray[np.int64]]:
        """Return all rows and the numbers of their lines.

        Args:
            ragged: Errors of the table's form; they come first.

        Raises:
            AnnotationError: Rows are wrong, or repeat others.
        """
        parts = self._parts or {"lines": [np.empty(0, dtype=np.int64)]}
        # one column after the other, so that no more than one is there twice
        columns = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
        if not len(columns["lines"]):
            ragged.raise_with(self._errors)
            return SegmentTable.of_rows(()), columns["lines"]
        places = columns.pop("places")
        names, cases, videos = (
            np.frombuffer(of_place, dtype=np.int32)[places]
            for of_place in (self._name_of_place, self._case_of_place, self._video_of_place)
        )
        table = SegmentTable(
            names=TextColumn(tuple(self._names.texts), names),
            cases=TextColumn(tuple(self._cases.texts), cases),
            videos=_unite_equal(TextColumn(tuple(self._videos.texts), videos)),
            phases=TextColumn(tuple(self._phases.texts), columns["phases"]),
            splits=TextColumn(tuple(self._splits.texts), columns["splits"]),
            starts_s=columns["starts_s"],
            ends_s=columns["ends_s"],
            hashes=columns["hashes"],
            has_timed_ids=self._has_times,
        )
        for line, message in _find_repeated(table, columns["lines"]):
            self._errors.add(line, message)
        ragged.raise_with(self._errors)
        return table, columns["lines"]


def iterate_rows(
    file: TableFile, columns: Sequence[str], ragged: RowErrors
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table by their lines; those of another length are errors.

    Args:
        file: The table.
        columns: Its header.
        ragged: Receives the errors.
    """
    num_columns = len(columns)
    for line, values in itertools.islice(file.rows(), 1, None):
        if not any(map(str.strip, values)):
            continue
        if len(values) == num_columns:
            yield line, values
        else:
            ragged.add(
                line, f"{say_count(len(values), 'value')} for {say_count(num_columns, 'column')}"
            )


def _unite_equal(column: TextColumn) -> TextColumn:
    """Return a column in which no two of its texts are equal; see ``_Listing``."""
    num_distinct = len(np.unique(hash_ids(column.texts)))
    return column if num_distinct == len(column.texts) else column.renumber()


def _look_up(number_of: Mapping[Any, int], keys: Sequence[Any]) -> NDArray[np.int32]:
    """Return the number of each key, -1 for one that is not known."""
    find = number_of.get
    return np.fromiter((find(key, -1) for key in keys), np.int32, len(keys))


def _read_seconds(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return times as numbers, NaN for what is none."""
    try:
        return np.asarray([float(text) for text in texts], dtype=np.float64)
    except ValueError:
        return np.asarray([_read_or_nan(text) for text in texts], dtype=np.float64)


def _read_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _find_repeated(table: SegmentTable, lines: NDArray[np.int64]) -> list[tuple[int, str]]:
    """Return lines whose rows have the id of an earlier one, with the error of each.

    Equal ids have equal hashes; rows of equal hashes are few, and are compared by their ids.
    """
    hashes = table.hash_ids()
    order = np.argsort(hashes, kind="stable")
    is_twin = hashes[order][1:] == hashes[order][:-1]
    if not is_twin.any():
        return []
    suspects = np.union1d(order[1:][is_twin], order[:-1][is_twin])
    first_line: dict[str, int] = {}
    repeated = []
    own_lines = lines[suspects].tolist()
    for line, segment_id in zip(own_lines, table.take(suspects).segment_ids(), strict=True):
        first = first_line.setdefault(segment_id, line)
        if first != line:
            repeated.append((line, f"repeats line {first}; delete one"))
    return repeated
