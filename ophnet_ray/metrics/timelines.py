"""Labels of one video over time: as segments, as a timeline for the page, and its accuracy."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.index import frames_between
from ophnet_ray.metrics.segmental import find_stretches

NOT_ANNOTATED = -1


@dataclass(frozen=True, slots=True)
class TimelineSegment:
    """An interval ``[start_s, end_s)`` of one label."""

    start_s: float
    end_s: float
    label: int


@dataclass(frozen=True, slots=True)
class WorstFrame:
    """A confident error: a frame, its true and predicted label, and its picture as a small JPEG."""

    time_s: float
    truth: int
    prediction: int
    confidence: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class VideoTimeline:
    """Labels of one video at ascending frame times.

    ``times_s``: float64 (N,); ``prediction``: int64 (N,); ``confidence``: float32 (N,) in [0, 1];
    ``truth``: int64 (N,), ``NOT_ANNOTATED`` between segments, None without annotations;
    ``smoothed``: int64 (N,), None without smoothing; ``frame_model``: int64 (N,), labels of the
    frame model under a temporal model, None without.
    """

    video_id: str
    times_s: NDArray[np.float64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float32]
    truth: NDArray[np.int64] | None = None
    smoothed: NDArray[np.int64] | None = None
    worst: tuple[WorstFrame, ...] = ()
    frame_model: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class VideoScore:
    """Accuracy of one video over its annotated times (None without any), and what it holds."""

    video_id: str
    duration_s: float
    accuracy: float | None
    smoothed_accuracy: float | None
    mean_confidence: float
    num_phases: int
    frame_model_accuracy: float | None = None

    @property
    def final(self) -> float:
        """The score by which videos are ranked: accuracy, or confidence without annotations."""
        if self.smoothed_accuracy is not None:
            return self.smoothed_accuracy
        return self.mean_confidence if self.accuracy is None else self.accuracy


def score_video(timeline: VideoTimeline) -> VideoScore:
    """Score the timeline of one video."""
    times_s, smoothed = timeline.times_s, timeline.smoothed
    final = timeline.prediction if smoothed is None else smoothed
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    return VideoScore(
        timeline.video_id,
        float(times_s[-1] + step_s) if len(times_s) else 0.0,
        label_accuracy(timeline.truth, timeline.prediction),
        None if smoothed is None else label_accuracy(timeline.truth, smoothed),
        float(timeline.confidence.mean()) if len(timeline.confidence) else 0.0,
        len(np.unique(final[final >= 0])),
        None
        if timeline.frame_model is None
        else label_accuracy(timeline.truth, timeline.frame_model),
    )


def label_accuracy(truth: NDArray[np.int64] | None, prediction: NDArray[np.int64]) -> float | None:
    """Return the share of annotated times that are predicted right; None if nothing is annotated.

    Args:
        truth: (N,), ``NOT_ANNOTATED`` between segments; None without annotations.
        prediction: (N,).
    """
    if truth is None or not (truth != NOT_ANNOTATED).any():
        return None
    annotated = truth != NOT_ANNOTATED
    return float((prediction[annotated] == truth[annotated]).mean())


def label_times(
    times_s: NDArray[np.float64], segments: Iterable[Segment], label_of: Mapping[str, int]
) -> NDArray[np.int64]:
    """Return the annotated label at each time, (N,); ``NOT_ANNOTATED`` between segments.

    A time belongs to a segment if ``start_s <= time < end_s``. Where segments overlap, the one that
    starts later has precedence; of segments that start together, the shorter one.
    """
    labels = np.full(len(times_s), NOT_ANNOTATED, dtype=np.int64)
    for segment in sorted(segments, key=lambda s: (s.start_s, -s.end_s)):
        inside = frames_between(times_s, segment.start_s, segment.end_s)
        labels[inside.start : inside.stop] = label_of[segment.phase]
    return labels


def cut_segments(
    times_s: NDArray[np.float64], labels: NDArray[np.int64], frame_rate: float
) -> list[TimelineSegment]:
    """Cut labels into segments, each up to the next frame time; none where there is no prediction.

    Args:
        times_s: Ascending frame times (N,).
        labels: (N,), ``NO_PREDICTION`` where there is none.
        frame_rate: Frame times per second.
    """
    return [
        TimelineSegment(
            float(times_s[start]), float(times_s[stop - 1] + 1 / frame_rate), int(label)
        )
        for label, start, stop in zip(*find_stretches(labels), strict=True)
    ]


def format_segments(
    timelines: Iterable[tuple[str, Sequence[TimelineSegment]]], phases: Sequence[str]
) -> str:
    """Format segments as the CSV ``video_id,start,end,phase`` that ``read_annotations`` reads.

    Args:
        timelines: Id and segments of each video.
        phases: Name of each label.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video_id", "start", "end", "phase"])
    for video_id, segments in timelines:
        for segment in segments:
            ends = (_format_seconds(segment.start_s), _format_seconds(segment.end_s))
            writer.writerow([video_id, *ends, phases[segment.label]])
    return text.getvalue()


def _format_seconds(value: float) -> str:
    """Format seconds with at most six decimals, without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)
