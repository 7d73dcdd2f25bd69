"""Labels at frame times ↔ segments."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import Segment
from ophnet_ray.metrics.segmental import find_runs

NOT_ANNOTATED = -1


@dataclass(frozen=True, slots=True)
class TimelineSegment:
    """A stretch ``[start_s, end_s)`` of one label."""

    start_s: float
    end_s: float
    label: int


def label_times(
    times_s: NDArray[np.float64], segments: Iterable[Segment], label_of: Mapping[str, int]
) -> NDArray[np.int64]:
    """The annotated label at each time, (N,); ``NOT_ANNOTATED`` between segments.

    A time belongs to the segments ``[start_s, end_s)`` that hold it; where they overlap, to the one
    that starts later (of those that start together, the shorter).
    """
    labels = np.full(len(times_s), NOT_ANNOTATED, dtype=np.int64)
    for segment in sorted(segments, key=lambda s: (s.start_s, -s.end_s)):
        # annotations are rounded to the millisecond or so, times are not
        first, stop = np.searchsorted(times_s, [segment.start_s - 1e-6, segment.end_s - 1e-6])
        labels[first:stop] = label_of[segment.phase]
    return labels


def cut_segments(
    times_s: NDArray[np.float64], labels: NDArray[np.int64], frame_rate: float
) -> list[TimelineSegment]:
    """Runs of one label; each lasts to the next frame time. No prediction, no segment."""
    runs = find_runs(labels)
    return [
        TimelineSegment(
            float(times_s[start]), float(times_s[stop - 1] + 1 / frame_rate), int(label)
        )
        for label, start, stop in zip(*runs, strict=True)
    ]


def format_segments(
    timelines: Iterable[tuple[str, Sequence[TimelineSegment]]], phases: Sequence[str]
) -> str:
    """A CSV ``video_id,start,end,phase`` in seconds, as ``annotations.read_annotations`` reads it.

    Args:
        timelines: Videos' ids and segments.
        phases: By label.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video_id", "start", "end", "phase"])
    for video_id, segments in timelines:
        for s in segments:
            writer.writerow([video_id, _seconds(s.start_s), _seconds(s.end_s), phases[s.label]])
    return text.getvalue()


def _seconds(value: float) -> str:
    """Down to the microsecond, without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)
