"""One row of an annotation table → a segment, or the error that a person can act on."""

import math
from collections import defaultdict
from collections.abc import Callable, Container, Mapping

from ophnet_ray.data.cases import CaseRule, find_case
from ophnet_ray.data.segment_table import name_row
from ophnet_ray.data.segments import SPLITS, Segment
from ophnet_ray.data.table_file import AnnotationError
from ophnet_ray.data.video_files import VideoFinder
from ophnet_ray.storage.paths import check_location, check_text

_TEXTS = ("video_id", "case_id", "phase", "phase_id")
_Check = Callable[[str, str], None]


class RowParser:
    """Rows of one table → segments; ids are kept byte for byte ("001" is not 1).

    Equal texts are checked once: a table of millions of rows has few.

    Args:
        find_video: Finds the videos of the table.
        rule: Source of the cases.
    """

    def __init__(self, find_video: VideoFinder, rule: CaseRule) -> None:
        self.rule = rule
        self._find_video = find_video
        self._checked: dict[tuple[_Check, str], set[str]] = defaultdict(set)

    def parse(self, row: Mapping[str, str]) -> Segment:
        """Validate one row; ``case_id`` is empty if the name of the video does not tell it.

        Raises:
            UserError: Naming the value that is wrong.
        """
        for name in _TEXTS:
            if name in row:
                self._check(check_text, name, row[name])
        phase, split = _read_phase(row), row.get("split", "")
        if "split" in row and split not in SPLITS:
            raise AnnotationError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        column = name_column(row)
        self._check(check_location, column, row[column])
        name = _read_name(row, column)
        # file names hold the phase's name rather than its id
        case_id = find_case(row, name, self.rule, [row.get("phase") or "", phase])
        if self.rule == "column" and case_id is None:
            raise AnnotationError("case_id is empty")
        case_id = case_id or ""
        find = self._find_video
        video = find.by_path(name) if column == "video_path" else find.by_id(name)
        if "start" not in row:
            return Segment(name, case_id, video, 0.0, math.inf, phase, split)
        start_s, end_s = _parse_seconds(row, "start"), _parse_seconds(row, "end")
        if not 0 <= start_s < end_s:
            raise AnnotationError(f"start {row['start']} s is not before end {row['end']} s")
        segment_id = name_row(name, start_s, end_s, phase)
        return Segment(segment_id, case_id, video, start_s, end_s, phase, split)

    def _check(self, check: _Check, name: str, value: str) -> None:
        passed = self._checked[check, name]
        if value not in passed:
            check(name, value)
            passed.add(value)


def name_column(columns: Container[str]) -> str:
    """Return the column with the path or the id of a row's video."""
    return "video_path" if "video_path" in columns else "video_id"


def _read_phase(row: Mapping[str, str]) -> str:
    """Return the phase's id, or its name in a table without ids."""
    phase = row["phase_id"] if "phase_id" in row else row["phase"]
    if phase.strip():
        return phase
    # its name would become a class beside the ids
    name = row.get("phase", "").strip()
    raise AnnotationError(
        f"phase_id is empty beside phase {name!r}; fill it in, or delete the column phase_id"
        if name
        else "the phase is empty"
    )


def _read_name(row: Mapping[str, str], column: str) -> str:
    """Return the path or the id of the row's video; an empty id would be a case of its own."""
    is_segment = "start" in row
    for each in (column, "video_id") if is_segment else (column,):
        if each in row and not row[each].strip():
            raise AnnotationError(f"{each} is empty")
    return row[column]


def _parse_seconds(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{column} {row[column]!r} is not a time in seconds")
    return value
