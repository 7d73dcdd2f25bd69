"""Times of phases, truth against prediction: boundaries, durations, changes of phase.

Frames between annotated segments are removed first, as for the segmental scores.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.segmental import find_stretches
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, VideoTimeline


@dataclass(frozen=True, slots=True)
class PhaseTiming:
    """Segments and seconds of one phase over all videos.

    ``num_found``: true segments that a predicted segment of the phase overlaps. ``start_errors_s``,
    ``end_errors_s``: predicted minus true time of those, compared with the segment that overlaps
    most; the start of a video and its end are no boundaries. ``true_s``, ``predicted_s``: seconds
    per video whose truth shows the phase.
    """

    label: int
    num_true: int
    num_predicted: int
    num_found: int
    start_errors_s: NDArray[np.float64]
    end_errors_s: NDArray[np.float64]
    true_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of phases over all videos of a split.

    ``phases``: those of truth or prediction, by label. ``true_changes``, ``predicted_changes``:
    changes from one phase (row) to another (column), (K, K).
    """

    phases: tuple[PhaseTiming, ...]
    true_changes: NDArray[np.int64]
    predicted_changes: NDArray[np.int64]

    @property
    def errors_s(self) -> NDArray[np.float64]:
        """Errors of all boundaries, predicted minus true, seconds."""
        parts = [[phase.start_errors_s, phase.end_errors_s] for phase in self.phases]
        return np.concatenate([np.zeros(0), *(errors for pair in parts for errors in pair)])

    @property
    def segments_ratio(self) -> float:
        """Predicted segments ÷ true segments; above 1: over-segmentation."""
        num_true = sum(phase.num_true for phase in self.phases)
        return sum(phase.num_predicted for phase in self.phases) / max(num_true, 1)


def measure_timing(timelines: Iterable[VideoTimeline], num_phases: int) -> Timing | None:
    """Compare the final labels of videos with their truth; None if nothing is annotated.

    Args:
        timelines: Videos; those without annotated frames are left out.
        num_phases: K.
    """
    records: list[_PhaseInVideo] = []
    changes = np.zeros((2, num_phases, num_phases), dtype=np.int64)
    for timeline in timelines:
        truth = timeline.truth
        if truth is None or not (is_annotated := truth != NOT_ANNOTATED).any():
            continue
        final = timeline.prediction if timeline.smoothed is None else timeline.smoothed
        rows = (truth[is_annotated], final[is_annotated])
        for counts, labels in zip(changes, rows, strict=True):
            names = find_stretches(labels).labels
            differs = names[1:] != names[:-1]
            np.add.at(counts, (names[:-1][differs], names[1:][differs]), 1)
        step_s = float(np.median(np.diff(timeline.times_s))) if len(timeline.times_s) > 1 else 0.0
        records += _measure_video(*rows, timeline.times_s[is_annotated], step_s)
    if not records:
        return None
    labels = sorted({record.label for record in records})
    phases = (_add_up([r for r in records if r.label == label]) for label in labels)
    return Timing(tuple(phases), changes[0], changes[1])


@dataclass(frozen=True, slots=True)
class _PhaseInVideo:
    """One phase in one video; errors in seconds, durations in seconds."""

    label: int
    num_true: int
    num_predicted: int
    num_found: int
    start_errors_s: list[float]
    end_errors_s: list[float]
    true_s: float
    predicted_s: float


def _measure_video(
    truth: NDArray[np.int64],
    final: NDArray[np.int64],
    times_s: NDArray[np.float64],
    step_s: float,
) -> list[_PhaseInVideo]:
    """Measure each phase of truth or prediction in one video of annotated frames (N,)."""
    true, found = find_stretches(truth), find_stretches(final)
    records = []
    for label in np.union1d(true.labels, found.labels):
        start_errors, end_errors, num_found = [], [], 0
        own = found.labels == label
        for start, stop in zip(
            true.starts[true.labels == label], true.stops[true.labels == label], strict=True
        ):
            shared = np.minimum(stop, found.stops[own]) - np.maximum(start, found.starts[own])
            if not len(shared) or shared.max() <= 0:
                continue
            num_found += 1
            best = int(shared.argmax())
            if start > 0:
                start_errors.append(float(times_s[found.starts[own][best]] - times_s[start]))
            if stop < len(truth):
                end = found.stops[own][best] - 1
                end_errors.append(float(times_s[end] - times_s[stop - 1]))
        records.append(
            _PhaseInVideo(
                int(label),
                int((true.labels == label).sum()),
                int(own.sum()),
                num_found,
                start_errors,
                end_errors,
                float((truth == label).sum() * step_s),
                float((final == label).sum() * step_s),
            )
        )
    return records


def _add_up(records: list[_PhaseInVideo]) -> PhaseTiming:
    """Add the videos of one phase up."""
    num_videos = max(sum(record.num_true > 0 for record in records), 1)
    return PhaseTiming(
        records[0].label,
        sum(record.num_true for record in records),
        sum(record.num_predicted for record in records),
        sum(record.num_found for record in records),
        np.asarray([error for record in records for error in record.start_errors_s], dtype=float),
        np.asarray([error for record in records for error in record.end_errors_s], dtype=float),
        sum(record.true_s for record in records) / num_videos,
        sum(record.predicted_s for record in records) / num_videos,
    )
