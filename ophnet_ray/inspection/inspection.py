"""Inspection of a data set: table, videos and costs, from the settings of a training run."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import AnnotationTable, find_missing_videos, read_table
from ophnet_ray.data.run_data import RunData, gather_rows, split_cases, split_rows
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inspection.findings import Finding
from ophnet_ray.inspection.fingerprint import take_fingerprint
from ophnet_ray.inspection.setup_checks import Costs, check_disk, describe_error, estimate_costs
from ophnet_ray.inspection.table_checks import check_phase_names, check_table
from ophnet_ray.inspection.video_checks import (
    check_all_videos,
    check_missing,
    check_rejects,
    check_video,
)
from ophnet_ray.inspection.video_facts import InspectAll, VideoFacts, VideoTask
from ophnet_ray.storage.paths import parent_of

PICTURES_PER_PHASE = 6
CLIP_PICTURE_S = 1.0
"""Time of the picture of a clip, whose length is not known before it is opened."""


@dataclass(frozen=True)
class Inspection:
    """Everything that was found.

    Attributes:
        data: The rows, split; None if the table cannot be read.
        facts: Facts of the videos that exist, by path.
        findings: What is wrong, in the order of the checks.
        pictures: For each phase, the row, the time and the JPEG of a few frames.
        costs: Cost of preparing the data; None without videos.
        fingerprint: See ``take_fingerprint``; None if the table cannot be read.
    """

    data: RunData | None
    facts: Mapping[str, VideoFacts]
    findings: Sequence[Finding]
    pictures: Mapping[str, Sequence[tuple[Segment, float, bytes]]]
    costs: Costs | None
    fingerprint: Mapping[str, Any] | None

    @property
    def rows(self) -> list[Segment]:
        """All rows of the table."""
        if self.data is None:
            return []
        return list(self.data.all_rows)


def inspect_data(
    config: Config, inspect_all: InspectAll, on_video: Callable[[int, int], None], *, full: bool
) -> Inspection:
    """Read the table, look at each video, and say what is wrong.

    Args:
        config: Settings with absolute paths, as a run would have them.
        inspect_all: Looks at the videos, in parallel.
        on_video: Called with the number of videos that are done, and of all.
        full: Decode every segment.
    """
    csv_path = config.data.csv_path or ""
    data, absent, findings = _read_rows(csv_path, config)
    if data is None:
        return Inspection(None, {}, findings, {}, None, None)
    findings += check_table(data)
    if any(finding.kind == "same content" and finding.level == "error" for finding in findings):
        # the split was refused for that reason
        findings = [finding for finding in findings if finding.kind != "split"]
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for row in data.all_rows:
        by_video[row.video].append(row)
    present = {video: rows for video, rows in by_video.items() if video not in absent}
    is_error = config.data.missing_videos == "error" or not _fitted(present)
    findings += check_missing({video: by_video[video] for video in absent}, is_error=is_error)
    wanted = choose_pictures(present)
    tasks = [
        VideoTask(
            video,
            tuple(rows),
            config.windows,
            tuple(sorted({time_s for _, time_s in wanted.get(video, ())})),
            full,
            config.run.local_cache_dir,
        )
        for video, rows in present.items()
    ]
    facts: dict[str, VideoFacts] = {}
    for fact in inspect_all(tasks) if tasks else ():
        facts[fact.video] = fact
        on_video(len(facts), len(tasks))
    ordered = [facts[video] for video in present]
    for fact in ordered:
        findings += check_video(fact, present[fact.video], config)
    findings += check_all_videos(ordered, config)
    findings += check_rejects(findings, _fitted(present), config)
    costs = None
    try:
        costs = estimate_costs(config, ordered, present) if ordered else None
    except UserError as error:
        findings += describe_error("disk", "--cache_dir", error)
    findings += check_disk(config, costs) if costs else ()
    video_dir = config.data.video_dir or parent_of(csv_path)
    return Inspection(
        data,
        facts,
        findings,
        _collect_pictures(wanted, facts),
        costs,
        take_fingerprint(csv_path, video_dir, data, ordered),
    )


def _fitted(rows: Mapping[str, Sequence[Segment]]) -> list[Segment]:
    """Return the rows of training and validation."""
    return [row for own in rows.values() for row in own if row.split != "test"]


def choose_pictures(
    rows: Mapping[str, Sequence[Segment]],
) -> dict[str, list[tuple[Segment, float]]]:
    """Choose a few rows of each phase, from different cases where there are, and a time in each.

    Test rows are not among them: nobody looks at the last exam before it.
    """
    by_phase: dict[str, dict[str, list[Segment]]] = defaultdict(lambda: defaultdict(list))
    for own in rows.values():
        for row in own:
            if row.split != "test":
                by_phase[row.phase][row.case_id].append(row)
    chosen: dict[str, list[tuple[Segment, float]]] = defaultdict(list)
    for cases in by_phase.values():
        turns = max(map(len, cases.values()))
        order = [own[turn] for turn in range(turns) for own in cases.values() if turn < len(own)]
        for row in order[:PICTURES_PER_PHASE]:
            is_clip = row.end_s == float("inf")
            time_s = CLIP_PICTURE_S if is_clip else (row.start_s + row.end_s) / 2
            chosen[row.video].append((row, time_s))
    return chosen


def _read_rows(csv_path: str, config: Config) -> tuple[RunData | None, set[str], list[Finding]]:
    """Return the rows, split if they can be, the missing videos, and what the table refuses."""
    data = config.data
    try:
        table = read_table(
            csv_path, data.video_dir, data.case_from, allow_outside=data.allow_outside
        )
    except UserError as error:
        return None, set(), describe_error("table", "--csv_path", error)
    absent = set(find_missing_videos(table.segments))
    findings = list(check_phase_names(table.phase_names))
    try:
        return _split(table, absent, config), absent, findings
    except UserError as error:
        findings += describe_error("split", "--csv_path", error)
        return _unsplit(table, absent), absent, findings


def _split(table: AnnotationTable, absent: set[str], config: Config) -> RunData:
    data, seed = config.data, config.training.seed
    if any(row.video not in absent for row in table.segments):
        return split_rows(table, absent, data, seed)
    # for the sake of the table's findings
    rows = split_cases(table.segments, data, seed)
    return RunData(rows, as_table(()), "", table.case_rule)


def _unsplit(table: AnnotationTable, absent: set[str]) -> RunData:
    if all(row.video in absent for row in table.segments):
        return RunData(table.segments, as_table(()), "", table.case_rule)
    return gather_rows(table, absent)


def _collect_pictures(
    wanted: Mapping[str, Sequence[tuple[Segment, float]]], facts: Mapping[str, VideoFacts]
) -> dict[str, list[tuple[Segment, float, bytes]]]:
    pictures: dict[str, list[tuple[Segment, float, bytes]]] = defaultdict(list)
    for video, chosen in wanted.items():
        by_time = dict(facts[video].pictures)
        for row, time_s in chosen:
            if time_s in by_time:
                pictures[row.phase].append((row, time_s, by_time[time_s]))
    return dict(pictures)
