"""Content of the page of a check, from an inspection and its findings."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite

from ophnet_ray.config import Config
from ophnet_ray.data.segments import SPLITS, Segment
from ophnet_ray.inspection.findings import Finding, sort_findings, would_start
from ophnet_ray.inspection.inspection import Inspection
from ophnet_ray.inspection.setup_checks import Costs
from ophnet_ray.inspection.video_facts import VideoFacts
from ophnet_ray.reports.inspection_report import (
    FindingRow,
    InspectionReport,
    PhaseRow,
    VideoTimeline,
)
from ophnet_ray.reports.page import format_clock, format_count
from ophnet_ray.storage.paths import name_of
from ophnet_ray.wording import say_count

GB = 1e9


def build_report(
    config: Config, inspection: Inspection, findings: Sequence[Finding]
) -> InspectionReport:
    """Collect the content of the page.

    Args:
        config: Settings of the run that is checked.
        inspection: What was learnt of the data.
        findings: All findings, those of the set-up too.
    """
    rows = inspection.rows
    used = {row.split for row in rows}
    splits = [split for split in ("", *SPLITS) if split in used]
    return InspectionReport(
        title=f"Check of {name_of(config.data.csv_path or '')}",
        subtitle="what is wrong with the data, and what to do about it, before a training run",
        tiles=_make_tiles(inspection, findings),
        findings=[
            FindingRow(f.level, f.kind, f.text, f.repair, len({s.segment_id for s in f.segments}))
            for f in sort_findings(findings)
        ],
        phases=_describe_phases(inspection, splits),
        splits=splits,
        timelines=_describe_videos(inspection, findings),
        facts=_describe_streams(list(inspection.facts.values())),
        config=config.to_flat(),
        versions=(inspection.fingerprint or {}).get("versions", {}),
    )


def _make_tiles(inspection: Inspection, findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    rows, facts = inspection.rows, inspection.facts.values()
    levels = Counter(finding.level for finding in findings)
    seconds = sum(fact.stream.duration_s for fact in facts if fact.stream)
    cases, videos = {row.case_id for row in rows}, {row.video for row in rows}
    tiles = [
        (
            "a run would start",
            "yes" if would_start(findings) else "no",
            ", ".join(say_count(levels[level], level) for level in ("error", "warning", "note")),
        ),
        ("rows", format_count(len(rows)), f"{len(cases):,} cases, {len(videos):,} videos"),
        ("video", format_clock(seconds), f"{len(facts):,} videos could be looked at"),
    ]
    return [*tiles, *_cost_tiles(inspection.costs)]


def _cost_tiles(costs: Costs | None) -> list[tuple[str, str, str]]:
    if costs is None:
        return []
    return [
        (
            "cache",
            f"{costs.cache_bytes / GB:.2f} GB",
            f"{costs.missing_bytes / GB:.2f} GB to decode; {costs.free_bytes / GB:.0f} GB free",
        ),
        (
            "decoding",
            format_clock(costs.decode_hours * 3600),
            f"for what the cache lacks, with {say_count(costs.workers, 'worker')}",
        ),
    ]


def _describe_phases(inspection: Inspection, splits: Sequence[str]) -> list[PhaseRow]:
    if inspection.data is None:
        return []
    by_phase: dict[str, list[Segment]] = defaultdict(list)
    for row in inspection.rows:
        by_phase[row.phase].append(row)
    return [
        PhaseRow(
            phase,
            {split: _count(by_phase[phase], split) for split in splits},
            sum(_length_s(row, inspection.facts) for row in by_phase[phase]),
            [
                (f"{name_of(row.video)} at {format_clock(time_s)}", jpeg)
                for row, time_s, jpeg in inspection.pictures.get(phase, ())
            ],
        )
        for phase in inspection.data.phases
    ]


def _count(rows: Sequence[Segment], split: str) -> tuple[int, int]:
    own = [row for row in rows if row.split == split]
    return len(own), len({row.case_id for row in own})


def _length_s(row: Segment, facts: Mapping[str, VideoFacts]) -> float:
    return _end_s(row, facts) - row.start_s


def _end_s(row: Segment, facts: Mapping[str, VideoFacts]) -> float:
    """Return the end of a row; of a clip, that of its video, its start if that is not known."""
    if isfinite(row.end_s):
        return row.end_s
    fact = facts.get(row.video)
    return fact.stream.duration_s if fact and fact.stream else row.start_s


def _describe_videos(inspection: Inspection, findings: Sequence[Finding]) -> list[VideoTimeline]:
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for row in inspection.rows:
        by_video[row.video].append(row)
    remarks: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        for row in finding.segments:
            remarks[row.video].add(finding.kind)
    timelines = []
    for video, rows in by_video.items():
        fact = inspection.facts.get(video)
        ends_s = [_end_s(row, inspection.facts) for row in rows]
        timelines.append(
            VideoTimeline(
                case_id=rows[0].case_id,
                name=name_of(video),
                split=", ".join(sorted({row.split for row in rows})),
                duration_s=fact.stream.duration_s if fact and fact.stream else max(ends_s),
                segments=[
                    (row.start_s, end_s, row.phase) for row, end_s in zip(rows, ends_s, strict=True)
                ],
                remarks=sorted(remarks[video]),
            )
        )
    return sorted(timelines, key=lambda each: (each.case_id, each.name))


def _describe_streams(facts: Sequence[VideoFacts]) -> dict[str, str]:
    """Count the codecs, resolutions and frame rates."""
    streams = [fact.stream for fact in facts if fact.stream]
    counts = {
        "codecs": Counter(stream.codec for stream in streams),
        "resolutions": Counter(f"{stream.width} x {stream.height}" for stream in streams),
        "frame rates": Counter(f"{stream.frame_rate:.3g}" for stream in streams),
        "pixel formats": Counter(stream.pixel_format for stream in streams),
    }
    return {
        name: ", ".join(f"{value}: {number}" for value, number in each.most_common())
        for name, each in counts.items()
    }
