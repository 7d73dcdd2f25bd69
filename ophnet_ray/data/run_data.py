"""Rows of a run: those whose videos exist, those whose videos do not, and a hash of the former."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ophnet_ray.config import DataConfig
from ophnet_ray.data.annotations import AnnotationTable, phase_vocabulary, read_table, sort_phases
from ophnet_ray.data.duplicates import find_same_videos
from ophnet_ray.data.folds import assign_fold
from ophnet_ray.data.row_hashes import hash_segments
from ophnet_ray.data.segment_table import SegmentTable, as_table, join_tables
from ophnet_ray.data.segments import Reject, Segment
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.data.table_file import AnnotationError
from ophnet_ray.data.video_files import VIDEO_SUFFIXES
from ophnet_ray.errors import UserError
from ophnet_ray.garbage import pause_collections
from ophnet_ray.storage.files import FileStatus, stat_files
from ophnet_ray.storage.paths import parent_of, stem_of
from ophnet_ray.wording import say_count

MISSING = "the video is missing"
"""Reason of the rows whose videos do not exist."""

AssignSplits = Callable[[SegmentTable, Iterable[Sequence[str]]], SegmentTable]
"""Returns rows with splits; the second argument: groups of videos of equal content."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The rows that a run or a search works on.

    ``segments``: rows whose videos exist, with their splits; ``missing``: the other rows, with
    those of the CSV; ``data_hash``: of ``identity`` and of the phases that test rows alone have,
    see ``row_hashes``; ``case_rule``: source of the cases, see ``cases``; ``same_videos``: groups
    of videos of equal content; ``held_back``: ids of the test rows that are training rows of the
    table, which a fold of ``--cross_fit`` leaves out; ``files``: the state of the videos as the
    table was read, so that no stage asks for each of them again; empty where nobody has asked.
    """

    segments: SegmentTable
    missing: SegmentTable
    data_hash: str
    case_rule: str = ""
    same_videos: tuple[tuple[str, ...], ...] = ()
    held_back: frozenset[str] = frozenset()
    files: Mapping[str, FileStatus] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of_rows(
        cls,
        segments: Iterable[Segment],
        missing: Iterable[Segment] = (),
        held_back: frozenset[str] = frozenset(),
        files: Mapping[str, FileStatus] | None = None,
    ) -> Self:
        """Collect rows and hash those that identify a run."""
        known = files or {}
        table = as_table(segments)
        data = cls(table, as_table(missing), "", held_back=held_back, files=known)
        hashed = hash_segments(data.identity, data._list_test_phases(), known)
        return replace(data, data_hash=hashed)

    @property
    def identity(self) -> SegmentTable:
        """Rows that identify a run: all but those of the table's test split.

        No training reads the latter, so their videos may come and go.
        """
        rows = self.segments
        identifies = ~rows.splits.equal("test")
        return rows.take(identifies | rows.find_ids(self.held_back))

    def _list_test_phases(self) -> list[str]:
        """Return the phases of the vocabulary that no row of training or validation has."""
        lost = self.missing.take(~self.missing.splits.equal("test")).phases.list_present()
        known = {*lost, *self.identity.phases.list_present()}
        return [phase for phase in self.phases if phase not in known]

    @property
    def all_rows(self) -> SegmentTable:
        """The rows, and after them those whose videos do not exist."""
        return join_tables([self.segments, self.missing])

    @property
    def num_train(self) -> int:
        """Number of training rows whose videos exist."""
        return int(np.count_nonzero(self.segments.splits.equal("train")))

    @property
    def phases(self) -> list[str]:
        """The vocabulary of all rows; index = label."""
        missing = self.missing.phases.list_present()
        return sort_phases({*self.segments.phases.list_present(), *missing})

    def list_rejects(self) -> list[Reject]:
        """Return the rows whose videos do not exist, each with that reason."""
        return [Reject(row, MISSING, "missing") for row in self.missing]


def read_run_data(
    csv_path: str, data: DataConfig, seed: int, on_notice: Callable[[str], None]
) -> RunData:
    """Read a CSV and split its cases.

    Videos of test rows may be missing: nothing of them is read here but the size and, for a video
    as large as another one, the hash that finds two names of one video.

    Args:
        csv_path: The CSV, or that of the demo.
        data: Settings of the rows.
        seed: Seed of the split.
        on_notice: Receives a line with the size of the table.

    Raises:
        UserError: The CSV is wrong, or videos of training or validation are missing and
            ``missing_videos`` forbids it.
    """
    with pause_collections():
        return _read_run_data(csv_path, data, seed, on_notice)


def _read_run_data(
    csv_path: str, data: DataConfig, seed: int, on_notice: Callable[[str], None]
) -> RunData:
    table = read_table(csv_path, data.video_dir, data.case_from, allow_outside=data.allow_outside)
    rows = table.segments
    videos = set(rows.videos.list_present())
    on_notice(
        f"{csv_path}: {say_count(len(rows), 'segment')}, {say_count(len(videos), 'video')}, "
        f"{say_count(len(phase_vocabulary(rows)), 'phase')}"
    )
    files = stat_files(videos)
    absent = videos - files.keys()
    fitted = rows.take(~rows.splits.equal("test")) if absent else rows
    lacking = sorted(absent.intersection(fitted.videos.list_present()))
    if lacking:
        num_present = int(np.count_nonzero(~fitted.videos.find(absent.__contains__)))
        if data.missing_videos == "error" or not num_present:
            raise UserError(_describe_missing(lacking, fitted, num_present, len(rows)))
    return split_rows(table, absent, data, seed, files)


def split_rows(
    table: AnnotationTable,
    absent: Collection[str],
    data: DataConfig,
    seed: int,
    files: Mapping[str, FileStatus] | None = None,
) -> RunData:
    """Split the cases of the rows whose videos exist.

    Args:
        table: All rows.
        absent: Videos that do not exist; only cases that exist are split.
        data: Settings of the rows.
        seed: Seed of the split.
        files: State of the videos that exist; None: it is asked for.

    Raises:
        AnnotationError: The rows cannot be split, see ``split_cases``.
    """

    def assign(rows: SegmentTable, same_videos: Iterable[Sequence[str]]) -> SegmentTable:
        return split_cases(rows, data, seed, same_videos)

    return gather_rows(table, absent, assign, files)


def split_cases(
    rows: Iterable[Segment],
    data: DataConfig,
    seed: int,
    same_videos: Iterable[Sequence[str]] = (),
) -> SegmentTable:
    """Assign splits as the settings say: those of a fold, of the CSV, or of the seed.

    Of folds without a fold the first one is held out: it stands for all of them.

    Args:
        rows: Rows of one table.
        data: Settings of the rows.
        seed: Seed of the split; it changes no fold.
        same_videos: Groups of videos of equal content.

    Raises:
        AnnotationError: See ``assign_splits`` and ``assign_fold``.
    """
    if data.folds is None:
        return assign_splits(rows, data.val_fraction, seed, same_videos)
    try:
        return assign_fold(rows, data.folds, data.fold or 1, same_videos)
    except AnnotationError as error:
        raise AnnotationError(f"--folds {data.folds}: {error}") from error


def gather_rows(
    table: AnnotationTable,
    absent: Collection[str],
    assign: AssignSplits | None = None,
    files: Mapping[str, FileStatus] | None = None,
) -> RunData:
    """Collect the rows of a table, those of missing videos apart.

    Args:
        table: All rows.
        absent: Videos that do not exist.
        assign: Splits the other rows; None leaves them as they are.
        files: State of the videos that exist; None: it is asked for.
    """
    rows = table.segments
    is_absent = rows.videos.find(absent.__contains__)
    present = rows.take(~is_absent) if absent else rows
    videos = present.videos.list_present()
    files = stat_files(set(videos)) if files is None else files
    same_videos = tuple(find_same_videos(videos, files))
    segments = assign(present, same_videos) if assign else present
    hashed = RunData.of_rows(segments, rows.take(is_absent), files=files)
    return replace(hashed, case_rule=table.case_rule, same_videos=same_videos)


def _describe_missing(
    missing: Sequence[str], fitted: SegmentTable, num_left: int, num_rows: int
) -> str:
    """Return the message about missing videos; a table with test rows has more rows than fitted."""
    num_videos = len(fitted.videos.list_present())
    kind = "videos of training and validation" if len(fitted) < num_rows else "videos"
    folders = sorted({parent_of(video) for video in missing})
    first = ", ".join(stem_of(video) for video in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    skip = (
        f"--missing_videos skip would use {num_left} of {len(fitted)} segments"
        if num_left
        else "nothing is left to train on, so --missing_videos skip would not help"
    )
    others = f" and {say_count(len(folders) - 1, 'more folder')}" if len(folders) > 1 else ""
    return (
        f"{len(missing)} of {num_videos} {kind} {'is' if len(missing) == 1 else 'are'} "
        f"missing ({first}{more}); searched "
        f"{folders[0]}{others} for {', '.join(VIDEO_SUFFIXES)}; give --video_dir; {skip}"
    )
