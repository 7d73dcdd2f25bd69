"""Annotation CSV → validated segments, and the phase vocabulary.

Policies for real files. A segment that ends after its video is cut at the video's end; a segment
that starts after it is rejected when the video is read (``video.blocks``). Overlapping segments are
all kept, each under its own label. Frames between segments are not used. Short segments are kept,
down to a single frame. The data passport counts each of these.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import CaseFrom
from ophnet_ray.data.cases import CaseRule, choose_case_rule, describe_untold
from ophnet_ray.data.row_parser import RowParser
from ophnet_ray.data.segment_table import SegmentTable, as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.spelling import fold_phase, unite_spellings
from ophnet_ray.data.table_file import AnnotationError, RowErrors, TableFile, check_columns
from ophnet_ray.data.table_parser import TableParser, iterate_rows
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.data.video_files import VideoFinder, root_of
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import stat_files
from ophnet_ray.storage.paths import absolute, check_location, parent_of
from ophnet_ray.wording import say_count

_ROW = "row"
"""Stands for the file in messages about rows in memory, as in ``row:3``."""


@dataclass(frozen=True, slots=True)
class AnnotationTable:
    """Segments of a table, in its order, and the rule that tells their cases.

    ``phase_names``: for each phase_id the names beside it, each with its first line; empty for a
    table without ids or without names.
    """

    segments: SegmentTable
    case_rule: CaseRule
    phase_names: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


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
        if any(value.strip() for _, values in file.rows() for value in values):
            raise AnnotationError(f"{path}:1: the header is blank; name the columns in line 1")
        raise AnnotationError(f"{path} is empty; expected a header line and one row per segment")
    check_columns(columns, path)
    given = None if video_dir is None else absolute(video_dir)
    root = None if allow_outside else root_of(absolute(path), given)
    find_video = VideoFinder(given or parent_of(absolute(path)), root)
    # millions of rows are not kept: the file is read once for its cases, once for its segments
    for_cases = (
        dict(zip(columns, values, strict=True))
        for _, values in iterate_rows(file, columns, RowErrors(path))
    )
    num_rows = None if "case_id" in columns or case_from == "column" else 1
    rule = choose_case_rule(itertools.islice(for_cases, num_rows), case_from)
    parser, ragged = TableParser(columns, RowParser(find_video, rule), path), RowErrors(path)
    parser.add(iterate_rows(file, columns, ragged))
    return _finish_table(parser, ragged, rule)


def parse_annotations(
    rows: Iterable[Mapping[str, str]],
    video_dir: str | Path,
    case_from: CaseFrom = "auto",
    *,
    allow_outside: bool = False,
) -> list[Segment]:
    """Validate rows in memory, e.g. of a data frame; see ``read_table``."""
    table = [dict(row) for row in rows]
    columns = list(table[0]) if table else []
    if table:
        check_columns(columns, "the table")
    folder = absolute(video_dir)
    find_video = VideoFinder(folder, None if allow_outside else folder)
    rule = choose_case_rule(table, case_from)
    parser = TableParser(columns, RowParser(find_video, rule), _ROW)
    values = ([row.get(name, "") for name in columns] for row in table)
    parser.add(enumerate(values, start=1))
    return list(_finish_table(parser, RowErrors(_ROW), rule).segments)


def phase_vocabulary(segments: Iterable[Segment]) -> list[str]:
    """Return all phases, sorted as ``sort_phases`` does; index = label."""
    return sort_phases(as_table(segments).phases.list_present())


def sort_phases(phases: Iterable[str]) -> list[str]:
    """Sort ids or names: whole numbers first, by value."""
    return sorted(phases, key=lambda p: (0, int(p), p) if p.isdecimal() else (1, 0, p))


def find_missing_videos(segments: Iterable[Segment]) -> list[str]:
    """Return the paths of the videos that do not exist, sorted."""
    videos = set(as_table(segments).videos.list_present())
    return sorted(videos - stat_files(videos).keys())


def require_videos(segments: Iterable[Segment]) -> None:
    """Check that every video exists.

    Raises:
        UserError: Some do not.
    """
    if missing := find_missing_videos(segments):
        raise UserError(
            f"{say_count(len(missing), 'video is', 'videos are')} missing, the first: {missing[0]}"
        )


def pair_neighbours(segments: Iterable[Segment]) -> Iterator[tuple[Segment, Segment]]:
    """Yield each segment of a video with the next one, in the order of their starts."""
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        by_video.setdefault(segment.video, []).append(segment)
    for rows in by_video.values():
        yield from itertools.pairwise(sorted(rows, key=lambda s: (s.start_s, s.end_s)))


def count_quirks(segments: Iterable[Segment]) -> dict[str, int]:
    """Count overlapping neighbours, gaps between neighbours, and segments under a second."""
    table = as_table(segments)
    order = np.lexsort((table.ends_s, table.starts_s, table.videos.numbers))
    videos, starts_s, ends_s = (
        column[order] for column in (table.videos.numbers, table.starts_s, table.ends_s)
    )
    are_neighbours = videos[1:] == videos[:-1]
    return {
        "overlaps": int((are_neighbours & (starts_s[1:] < ends_s[:-1])).sum()),
        "gaps": int((are_neighbours & (starts_s[1:] > ends_s[:-1])).sum()),
        "shorter_than_1_s": int((ends_s - starts_s < 1).sum()),
    }


def _finish_table(parser: TableParser, ragged: RowErrors, rule: CaseRule) -> AnnotationTable:
    """Check what only all rows together show; ``ragged``: errors of the table's form."""
    table, lines = parser.finish(ragged)
    where = ragged.where
    if not len(table):
        what = "the table" if where == _ROW else where
        raise AnnotationError(f"{what} holds no rows; expected one row per segment")
    _check_spellings(table.phases, where, lines)
    rows = _settle_cases(table, rule, where, lines)
    return AnnotationTable(rows, rule, parser.list_phase_names())


def _check_spellings(phases: TextColumn, where: str, lines: NDArray[np.int64]) -> None:
    """Refuse two spellings of a phase, which would be two classes."""
    known: dict[str, int] = {}
    _, first_rows = np.unique(phases.numbers, return_index=True)
    for row in np.sort(first_rows).tolist():
        other = known.setdefault(fold_phase(phases[row]), row)
        if other != row:
            raise AnnotationError(
                f"{where}:{lines[row]}: phase {phases[row]!r} differs from {phases[other]!r} in "
                f"line {lines[other]} only in blanks, zeros, '.0' or capitals; spell both alike"
            )


def _settle_cases(
    table: SegmentTable, rule: CaseRule, where: str, lines: NDArray[np.int64]
) -> SegmentTable:
    """Refuse rows without a case; give the cases that names tell one spelling each."""
    untold = np.flatnonzero(table.cases.equal(""))
    if len(untold):
        first = table[int(untold[0])].segment_id
        raise AnnotationError(
            f"{where}:{lines[untold[0]]}: {describe_untold(first, len(untold), len(table), rule)}"
        )
    if rule != "name":
        return table
    spelling = unite_spellings(table.cases.list_present())
    return replace(table, cases=table.cases.rename(spelling.__getitem__))
