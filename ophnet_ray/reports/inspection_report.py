"""Page of a check: findings with their repairs, phases with pictures, the timeline of each case."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.reports.figures import phase_colors
from ophnet_ray.reports.page import write_page

MAX_FINDINGS = 50
"""Findings of one kind in the table; rejects.csv has all rows."""
MAX_TIMELINES = 1000


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A finding; ``rows``: number of rows of the CSV that it concerns."""

    level: str
    kind: str
    text: str
    repair: str
    rows: int


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase; ``counts``: rows and cases by split; ``jpegs``: captions and pictures."""

    phase: str
    counts: Mapping[str, tuple[int, int]]
    duration_s: float
    jpegs: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class VideoTimeline:
    """The rows of one video.

    ``segments``: (start, end, phase) in seconds; ``duration_s``: of the video, or the end of its
    last row; ``remarks``: what was found of it.
    """

    case_id: str
    name: str
    split: str
    duration_s: float
    segments: Sequence[tuple[float, float, str]]
    remarks: Sequence[str]


@dataclass(frozen=True)
class InspectionReport:
    """Content of the page of a check.

    ``tiles``: name, value and explanation of the figures at the top. ``facts``: lines of text by
    name, e.g. the resolutions of the videos.
    """

    title: str
    subtitle: str
    tiles: Sequence[tuple[str, str, str]]
    findings: Sequence[FindingRow]
    phases: Sequence[PhaseRow]
    splits: Sequence[str]
    timelines: Sequence[VideoTimeline]
    facts: Mapping[str, str]
    config: Mapping[str, Any]
    versions: Mapping[str, str]


def write_inspection_report(path: Path, report: InspectionReport) -> None:
    """Write the page atomically: one file, without scripts."""
    names = [row.phase for row in report.phases]
    colors = dict(zip(names, phase_colors(len(names)), strict=True))
    shown, left_out = _cut_findings(report.findings)
    write_page(
        path,
        "inspection.html.j2",
        {
            "report": report,
            "colors": colors,
            "findings": shown,
            "left_out": left_out,
            "sheets": [
                (row, [(text, base64.b64encode(jpeg).decode()) for text, jpeg in row.jpegs])
                for row in report.phases
            ],
            "timelines": [_draw_timeline(t, colors) for t in report.timelines[:MAX_TIMELINES]],
            "num_timelines_left_out": max(len(report.timelines) - MAX_TIMELINES, 0),
        },
    )


def _cut_findings(findings: Sequence[FindingRow]) -> tuple[list[FindingRow], dict[str, int]]:
    """Return the first findings of each kind, and the number of the others."""
    shown: list[FindingRow] = []
    counts: dict[str, int] = {}
    for row in findings:
        counts[row.kind] = counts.get(row.kind, 0) + 1
        if counts[row.kind] <= MAX_FINDINGS:
            shown.append(row)
    left_out = {kind: n - MAX_FINDINGS for kind, n in counts.items() if n > MAX_FINDINGS}
    return shown, left_out


def _draw_timeline(timeline: VideoTimeline, colors: Mapping[str, str]) -> dict[str, Any]:
    """Place the rows of a video as bars, in percent of its duration; overlaps go to a new lane."""
    end_s = max(timeline.duration_s, 1e-9)
    lanes: list[float] = []
    bars = []
    for start_s, stop_s, phase in sorted(timeline.segments):
        lane = next((i for i, free_s in enumerate(lanes) if free_s <= start_s), len(lanes))
        lanes[lane : lane + 1] = [stop_s]
        left = 100 * min(start_s / end_s, 1)
        width = max(100 * min(stop_s / end_s, 1) - left, 0.15)
        bars.append((lane, left, width, colors[phase], phase, start_s, stop_s))
    return {"timeline": timeline, "lanes": max(len(lanes), 1), "bars": bars}
