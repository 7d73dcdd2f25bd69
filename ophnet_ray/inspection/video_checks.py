"""Findings of the videos, from their facts: files, frames of the rows, and the whole set."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ophnet_ray.config import Config
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.inspection.findings import Finding, Level
from ophnet_ray.inspection.repairs import (
    repair_borders,
    repair_codec,
    repair_cut,
    repair_damaged,
    repair_end,
    repair_metadata,
    repair_missing,
    repair_unreadable,
)
from ophnet_ray.inspection.video_facts import RowFacts, StreamFacts, VideoFacts
from ophnet_ray.storage.files import list_names
from ophnet_ray.storage.paths import name_of, parent_of
from ophnet_ray.wording import say_count

T = TypeVar("T")

MAX_BORDER_SHARE = 0.05
"""Share of the pixels of a picture that may be border."""


def check_missing(rows: Mapping[str, Sequence[Segment]], *, is_error: bool) -> Iterator[Finding]:
    """Yield the videos that do not exist.

    Args:
        rows: Rows by missing video.
        is_error: A run would not start without videos of training or validation.
    """
    names: dict[str, list[str]] = {}
    for video, own in sorted(rows.items()):
        is_fitted = any(row.split != "test" for row in own)
        level: Level = "error" if is_error and is_fitted else "warning"
        folder = parent_of(video)
        if folder not in names:
            names[folder] = list_names(folder)
        yield Finding(
            "missing",
            level,
            name_of(video),
            f"{name_of(video)} does not exist in {folder}",
            repair_missing(video, names[folder]),
            tuple(own),
            is_used=False,
        )


def check_video(facts: VideoFacts, rows: Sequence[Segment], config: Config) -> Iterator[Finding]:
    """Yield the findings of one video; the rows are those of its task, in that order."""
    name, stream = name_of(facts.video), facts.stream
    if stream is None:
        yield _unreadable(facts, rows)
        return
    bad = [(row, fact) for row, fact in zip(rows, facts.rows, strict=True) if fact.kind]
    cut = [row for row, fact in zip(rows, facts.rows, strict=True) if fact.is_truncated]
    if stream.lost_s is not None:
        lost = tuple(row for row, fact in bad if fact.kind == "outside the video")
        yield Finding(
            "truncated",
            "warning",
            name,
            f"{name}: its header promises {stream.duration_s + stream.lost_s:.1f} s, its frames "
            f"end at {stream.duration_s:.1f} s",
            repair_cut(facts.video),
            lost or tuple(cut),
            is_used=not lost,
        )
        bad = [(row, fact) for row, fact in bad if row not in lost]
        if not lost:
            cut = []  # the finding has named them
    yield from (_bad_row(row, fact, stream, facts.video) for row, fact in bad)
    for row in cut:
        yield Finding(
            "past the end",
            "warning",
            row.segment_id,
            f"{row.segment_id} ends at {row.end_s:g} s, the video at {stream.duration_s:.2f} s; a "
            "run cuts it there",
            repair_end(row, stream.duration_s),
            (row,),
        )
    if facts.lost_frames_s and not any(fact.kind == "damaged" for _, fact in bad):
        yield Finding(
            "damaged",
            "warning",
            name,
            f"{name}: no picture at {', '.join(f'{s:.2f}' for s in facts.lost_frames_s)} s",
            repair_damaged(facts.video),
        )
    yield from _check_short_rows(facts, rows, config)
    yield from _check_picture(facts, stream)


def check_all_videos(all_facts: Sequence[VideoFacts], config: Config) -> Iterator[Finding]:
    """Yield what differs between videos: frame rates and resolutions."""
    streams = [facts.stream for facts in all_facts if facts.stream]
    exact = [stream.frame_rate for stream in streams if stream.frame_rate]
    rates = Counter(round(rate) for rate in exact)
    if len(rates) > 1:
        size = config.windows.window_size
        low, high = size / max(exact), size / min(exact)
        frequent = max(rates.most_common(1)[0][0], 1)
        yield Finding(
            "frame rates",
            "note" if high < 1.5 * low else "warning",
            "videos",
            f"frame rates differ ({_list_counts(rates, ' fps')}): a window of {size} frames lasts "
            f"{low:.2f} to {high:.2f} s",
            f"bring all to one rate, e.g. ffmpeg -i IN -r {frequent} -c:v libx264 -crf 18 OUT",
        )
    sizes = Counter(f"{stream.width}x{stream.height}" for stream in streams)
    if len(sizes) > 1:
        yield Finding(
            "resolutions",
            "note",
            "videos",
            f"resolutions differ: {_list_counts(sizes, '')}; each is scaled to "
            f"{config.windows.image_size} x {config.windows.image_size}, whatever its shape",
            "none needed, unless the shapes differ: then crop them to one shape",
        )
    small = [s for s in streams if min(s.width, s.height) < config.windows.image_size]
    if small:
        yield Finding(
            "small pictures",
            "note",
            "videos",
            f"{len(small)} of {len(streams)} videos are smaller than --image_size "
            f"{config.windows.image_size} and are scaled up",
            "none needed: a smaller --image_size loses nothing of them, and saves space",
        )


def check_rejects(
    findings: Sequence[Finding], rows: Sequence[Segment], config: Config
) -> Iterator[Finding]:
    """Yield the errors with which a run stops when too few rows are left.

    Args:
        findings: All others.
        rows: Rows of training and validation whose videos exist.
        config: Settings.
    """
    ids = {row.segment_id for row in rows}
    unused = (f for f in findings if not f.is_used and f.kind != "missing")
    lost = ids & {row.segment_id for finding in unused for row in finding.segments}
    if len(lost) > config.data.max_rejected * len(rows):
        share = math.ceil(100 * len(lost) / len(rows)) / 100
        yield Finding(
            "table",
            "error",
            "--max_rejected",
            f"{len(lost)} of {len(rows)} rows cannot be read, more than --max_rejected "
            f"{config.data.max_rejected:g} allows",
            f"mend them (rejects.csv), or --max_rejected {share:g}",
        )
    left = {row.split for row in rows if row.segment_id not in lost}
    for split in FITTED_SPLITS:
        if split not in left and any(row.split == split for row in rows):
            yield Finding(
                "table",
                "error",
                f"split {split}",
                f"no usable row is left for split {split}",
                "mend its videos, or mark other rows",
            )


def _unreadable(facts: VideoFacts, rows: Sequence[Segment]) -> Finding:
    name = name_of(facts.video)
    if facts.is_cut:
        text = f"{name} cannot be read: the end of the file is missing"
        return Finding(
            "truncated", "warning", name, text, repair_cut(facts.video), tuple(rows), is_used=False
        )
    if facts.kind == "missing":
        text = f"{name}: a node of the cluster does not see {facts.video}"
        cure = "use storage that all nodes share, under the same path"
        return Finding("node", "error", name, text, cure, tuple(rows), is_used=False)
    is_codec = "codec" in facts.reason
    return Finding(
        "codec" if is_codec else "unreadable",
        "warning",
        name,
        f"{name}: {facts.reason}",
        repair_codec(facts.video) if is_codec else repair_unreadable(facts.video),
        tuple(rows),
        is_used=False,
    )


def _bad_row(row: Segment, fact: RowFacts, stream: StreamFacts, video: str) -> Finding:
    if fact.kind != "outside the video":
        return Finding(
            "damaged",
            "warning",
            row.segment_id,
            f"{row.segment_id}: {fact.reason}",
            repair_damaged(video),
            (row,),
            is_used=False,
        )
    is_after = row.start_s >= stream.duration_s
    return Finding(
        "outside the video" if is_after else "no frame",
        "warning",
        row.segment_id,
        f"{row.segment_id}: {fact.reason}",
        "correct its times, or delete the row"
        if is_after
        else f"make it at least one frame long ({1 / max(stream.frame_rate, 1e-9):.3f} s), or "
        "delete the row",
        (row,),
        is_used=False,
    )


def _check_short_rows(
    facts: VideoFacts, rows: Sequence[Segment], config: Config
) -> Iterator[Finding]:
    size = config.windows.window_size
    for row, fact in zip(rows, facts.rows, strict=True):
        if 0 < fact.num_frames < size and not fact.kind:
            yield Finding(
                "shorter than a window",
                "note",
                row.segment_id,
                f"{row.segment_id} has {say_count(fact.num_frames, 'frame')}, fewer than a window "
                f"of {size}: all of them are its one window",
                "join it with its neighbour if that has the same phase, or a smaller --window_size",
                (row,),
            )


def _check_picture(facts: VideoFacts, stream: StreamFacts) -> Iterator[Finding]:
    name, borders = name_of(facts.video), facts.borders
    if borders is not None and borders.share > MAX_BORDER_SHARE:
        yield Finding(
            "black borders",
            "note",
            name,
            f"{name}: {100 * borders.share:.0f} % of its picture is black border (top "
            f"{borders.top}, bottom {borders.bottom}, left {borders.left}, right {borders.right} "
            "pixels)",
            repair_borders(facts.video, borders),
        )
    if stream.has_odd_metadata:
        yield Finding(
            "metadata",
            "note",
            name,
            f"{name}: its title or comment is no UTF-8 text",
            repair_metadata(facts.video),
        )


def _list_counts(counts: Mapping[T, int], unit: str) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{value}{unit}: {number}" for value, number in ordered[:6])
    return shown + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")
