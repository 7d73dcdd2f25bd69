"""Annotation CSV → validated segments, and the phase vocabulary.

Policies for real files. A segment that ends after its video is cut at the video's end; a segment
that starts after it is rejected when the video is read (``video.blocks``). Overlapping segments are
all kept, each under its own label. Frames between segments are not used. Short segments are kept,
down to a single frame. The data passport counts each of these.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ophnet_ray.config import CaseFrom
from ophnet_ray.data.cases import CaseRule, choose_case_rule, describe_untold, find_case
from ophnet_ray.data.spelling import fold_phase, unite_spellings
from ophnet_ray.data.table_file import AnnotationError, RowErrors, TableFile, check_columns
from ophnet_ray.data.video_files import VideoFinder, root_of
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import stat_files
from ophnet_ray.storage.paths import absolute, check_location, check_text, parent_of

SPLITS = ("train", "val", "test")
_TEXTS = {"video_id", "case_id", "phase", "phase_id"}
_Check = Callable[[str, str], None]


RejectKind = Literal["missing", "unreadable", "damaged", "outside the video", "other"]
"""Cause of a reject in a word that holds nothing of the file; ``other``: it was not recorded."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotated interval ``[start_s, end_s)`` of one phase in one video.

    A trimmed clip has ``start_s=0, end_s=inf``. ``split`` is empty until it is assigned.
    ``segment_id`` is unique in its table and depends on the row alone, not on its position.
    """

    segment_id: str
    case_id: str
    video: str
    start_s: float
    end_s: float
    phase: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not used, and why: ``reason`` for people, ``kind`` for counts."""

    segment: Segment
    reason: str
    kind: RejectKind


@dataclass(frozen=True, slots=True)
class AnnotationTable:
    """Segments of a table, in its order, and the rule that tells their cases."""

    segments: tuple[Segment, ...]
    case_rule: CaseRule


def read_annotations(
    csv_path: str | Path,
    video_dir: str | Path | None = None,
    case_from: CaseFrom = "auto",
    *,
    allow_outside: bool = False,
) -> list[Segment]:
    """Read the segments of an annotation CSV; see ``read_table``."""
    table = read_table(csv_path, video_dir, case_from, allow_outside=allow_outside)
    return list(table.segments)


def read_table(
    csv_path: str | Path,
    video_dir: str | Path | None = None,
    case_from: CaseFrom = "auto",
    *,
    allow_outside: bool = False,
) -> AnnotationTable:
    """Read an annotation CSV of either kind.

    Args:
        csv_path: UTF-8 text with or without a byte-order mark, on disk or in a bucket.
        video_dir: Folder of the videos; the CSV's folder when None.
        case_from: See ``DataConfig``.
        allow_outside: See ``DataConfig``.

    Returns:
        One segment per row, in the file's order. ``video`` is an absolute path or a bucket's URI;
        the file need not exist (see ``find_missing_videos``).

    Raises:
        AnnotationError: Naming file and line of up to ten errors, or rows without a case.
    """
    path = str(csv_path)
    check_location("--csv_path", path)
    if video_dir is not None:
        check_location("--video_dir", str(video_dir))
    file = TableFile(path)
    _, header = next(file.rows(), (0, []))
    columns = [name.strip() for name in header]
    if not any(columns):
        raise AnnotationError(f"{path} is empty; expected a header line and one row per segment")
    check_columns(columns, path)
    given = None if video_dir is None else absolute(video_dir)
    root = None if allow_outside else root_of(absolute(path), given)
    find_video = VideoFinder(given or parent_of(absolute(path)), root)
    # millions of rows are not kept: the file is read once for its cases, once for its segments
    for_cases = (row for _, row in _read_dicts(file, columns, RowErrors(path)))
    num_rows = None if "case_id" in columns or case_from == "column" else 1
    rule = choose_case_rule(itertools.islice(for_cases, num_rows), case_from)
    parser = RowParser(find_video, rule)
    ragged = RowErrors(path)
    return _parse_rows(_read_dicts(file, columns, ragged), parser, ragged)


def _read_dicts(
    file: TableFile, columns: Sequence[str], ragged: RowErrors
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table by their lines; those of another length are errors."""
    for line, values in itertools.islice(file.rows(), 1, None):
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(columns):
            ragged.add(line, f"{len(values)} values for {len(columns)} columns")
        else:
            yield line, dict(zip(columns, values, strict=True))


def parse_annotations(
    rows: Iterable[Mapping[str, str]],
    video_dir: str | Path,
    case_from: CaseFrom = "auto",
    *,
    allow_outside: bool = False,
) -> list[Segment]:
    """Validate rows in memory, e.g. of a data frame; see ``read_table``."""
    table = [dict(row) for row in rows]
    if table:
        check_columns(list(table[0]), "the table")
    folder = absolute(video_dir)
    find_video = VideoFinder(folder, None if allow_outside else folder)
    parser = RowParser(find_video, choose_case_rule(table, case_from))
    return list(_parse_rows(enumerate(table, start=1), parser, RowErrors("row")).segments)


def phase_vocabulary(segments: Iterable[Segment]) -> list[str]:
    """Return all phases, sorted as ``sort_phases`` does; index = label."""
    return sort_phases({segment.phase for segment in segments})


def sort_phases(phases: Iterable[str]) -> list[str]:
    """Sort ids or names: whole numbers first, by value."""
    return sorted(phases, key=lambda p: (0, int(p), p) if p.isdecimal() else (1, 0, p))


def find_missing_videos(segments: Iterable[Segment]) -> list[str]:
    """Return the paths of the videos that do not exist, sorted."""
    videos = {segment.video for segment in segments}
    return sorted(videos - stat_files(videos).keys())


def require_videos(segments: Iterable[Segment]) -> None:
    """Check that every video exists.

    Raises:
        UserError: Some do not.
    """
    if missing := find_missing_videos(segments):
        raise UserError(f"{len(missing)} videos are missing, the first: {missing[0]}")


def pair_neighbours(segments: Iterable[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Yield each segment of a video with the next one, in the order of their starts."""
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        by_video.setdefault(segment.video, []).append(segment)
    for rows in by_video.values():
        yield from itertools.pairwise(sorted(rows, key=lambda s: (s.start_s, s.end_s)))


def count_quirks(segments: Sequence[Segment]) -> dict[str, int]:
    """Count overlapping neighbours, gaps between neighbours, and segments under a second."""
    counts = Counter(overlaps=0, gaps=0, shorter_than_1_s=0)
    for segment in segments:
        counts["shorter_than_1_s"] += segment.end_s - segment.start_s < 1
    for before, after in pair_neighbours(segments):
        counts["overlaps"] += after.start_s < before.end_s
        counts["gaps"] += after.start_s > before.end_s
    return dict(counts)


def _parse_rows(
    rows: Iterable[tuple[int, Mapping[str, str]]], parser: "RowParser", ragged: RowErrors
) -> AnnotationTable:
    """Validate rows; ``ragged`` has received the errors of the table's form by the last one."""
    segments: list[Segment] = []
    first_line: dict[str, int] = {}
    errors = RowErrors(ragged.where)
    for line, row in rows:
        try:
            segment = parser.parse(row)
        except UserError as error:
            errors.add(line, error)
            continue
        if segment.segment_id in first_line:
            errors.add(line, f"repeats line {first_line[segment.segment_id]}; delete one")
            continue
        first_line[segment.segment_id] = line
        segments.append(segment)
    ragged.raise_with(errors)
    where = ragged.where
    if not segments:
        raise AnnotationError(f"{where} holds no rows; expected one row per segment")
    _check_spellings(segments, where, first_line)
    rule = parser.rule
    return AnnotationTable(tuple(_settle_cases(segments, rule, where, first_line)), rule)


def _check_spellings(
    segments: Iterable[Segment], where: str, first_line: Mapping[str, int]
) -> None:
    """Refuse two spellings of a phase, which would be two classes."""
    known: dict[str, Segment] = {}
    seen: set[str] = set()
    for segment in segments:
        if segment.phase in seen:
            continue
        seen.add(segment.phase)
        other = known.setdefault(fold_phase(segment.phase), segment)
        if other.phase != segment.phase:
            raise AnnotationError(
                f"{where}:{first_line[segment.segment_id]}: phase {segment.phase!r} differs from "
                f"{other.phase!r} in line {first_line[other.segment_id]} only in blanks, zeros, "
                "'.0' or capitals; spell both alike"
            )


def _settle_cases(
    segments: list[Segment], rule: CaseRule, where: str, first_line: Mapping[str, int]
) -> list[Segment]:
    """Refuse rows without a case; give the cases that names tell one spelling each."""
    untold = [segment.segment_id for segment in segments if not segment.case_id]
    if untold:
        raise AnnotationError(
            f"{where}:{first_line[untold[0]]}: {describe_untold(untold, len(segments), rule)}"
        )
    if rule != "name":
        return segments
    spelling = unite_spellings(segment.case_id for segment in segments)
    return [replace(s, case_id=spelling[s.case_id]) for s in segments]


class RowParser:
    """Rows of one table → segments; ids are kept byte for byte ("001" is not 1).

    Equal texts are checked once and kept once: a table of millions of rows has few.

    Args:
        find_video: Finds the videos of the table.
        rule: Source of the cases.
    """

    def __init__(self, find_video: VideoFinder, rule: CaseRule) -> None:
        self.rule = rule
        self._find_video = find_video
        self._checked: dict[tuple[_Check, str], set[str]] = defaultdict(set)
        self._kept: dict[str, str] = {}

    def parse(self, row: Mapping[str, str]) -> Segment:
        """Validate one row; ``case_id`` is empty if the name of the video does not tell it.

        Raises:
            UserError: Naming the value that is wrong.
        """
        for name in _TEXTS & row.keys():
            self._check(check_text, name, row[name])
        phase, split = self._keep(_read_phase(row)), self._keep(row.get("split", ""))
        if "split" in row and split not in SPLITS:
            raise AnnotationError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        column = "video_path" if "video_path" in row else "video_id"
        self._check(check_location, column, row[column])
        name = _read_name(row, column)
        # file names hold the phase's name rather than its id
        case_id = find_case(row, name, self.rule, [row.get("phase") or "", phase])
        if self.rule == "column" and case_id is None:
            raise AnnotationError("case_id is empty")
        case_id = self._keep(case_id or "")
        find = self._find_video
        video = find.by_path(name) if column == "video_path" else find.by_id(name)
        if "start" not in row:
            return Segment(name, case_id, video, 0.0, math.inf, phase, split)
        start_s, end_s = _parse_seconds(row, "start"), _parse_seconds(row, "end")
        if not 0 <= start_s < end_s:
            raise AnnotationError(f"start {row['start']} s is not before end {row['end']} s")
        segment_id = f"{name}:{start_s:.10g}-{end_s:.10g}:{phase}"
        return Segment(segment_id, case_id, video, start_s, end_s, phase, split)

    def _check(self, check: _Check, name: str, value: str) -> None:
        passed = self._checked[check, name]
        if value not in passed:
            check(name, value)
            passed.add(value)

    def _keep(self, text: str) -> str:
        return self._kept.setdefault(text, text)


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
