"""Scores of segments instead of frames: is each phase found once, in order, about where it is?

Definitions of "MS-TCN" (arXiv:1903.01945) and its public ``eval.py``, in [0, 1] instead of percent.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.classification import NO_PREDICTION

OVERLAPS = (0.10, 0.25, 0.50)


class Runs(NamedTuple):
    """Maximal stretches of one label: label, first and one past the last index of each."""

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def find_runs(labels: NDArray[np.int64]) -> Runs:
    """Run-length encode a sequence; what has no prediction separates, and is no run."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64)[: len(labels)]
    stops = np.concatenate([edges, [len(labels)]]).astype(np.int64)[: len(starts)]
    is_run = labels[starts] != NO_PREDICTION
    return Runs(labels[starts][is_run], starts[is_run], stops[is_run])


def edit_score(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """1 - Levenshtein distance of the two orders of runs / the longer one's length.

    Args:
        labels: (N,) of one video, N > 0.
        predictions: (N,).
    """
    truth, found = find_runs(labels).labels, find_runs(predictions).labels
    return 1 - _levenshtein(truth, found) / max(len(truth), len(found))


def segment_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], overlap: float
) -> NDArray[np.int64]:
    """True positives, false positives and false negatives among the runs of one video, (3,).

    A predicted run is right when the run of the same label that it overlaps with most has an
    intersection over union of at least ``overlap`` and no earlier run has taken it.
    """
    truth, found = find_runs(labels), find_runs(predictions)
    taken = np.zeros(len(truth.labels), dtype=bool)
    for label, start, stop in zip(*found, strict=True):
        shared = np.minimum(stop, truth.stops) - np.maximum(start, truth.starts)
        union = np.maximum(stop, truth.stops) - np.minimum(start, truth.starts)
        iou = np.where(truth.labels == label, shared / union, -1.0)
        best = int(iou.argmax())
        if iou[best] >= overlap:
            # a second run on the same place takes nothing and so is a false positive
            taken[best] = True
    hits = int(taken.sum())
    return np.asarray([hits, len(found.labels) - hits, len(taken) - hits], dtype=np.int64)


def segmental_f1(counts: NDArray[np.int64]) -> float:
    """F1@k from counts that were summed over all videos first, as MS-TCN does; 0 for none."""
    hits, false_positives, false_negatives = (int(count) for count in counts)
    denominator = 2 * hits + false_positives + false_negatives
    return 2 * hits / denominator if denominator else 0.0


def _levenshtein(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Insertions, deletions and substitutions from a to b, a row of the table at a time."""
    places = np.arange(len(b) + 1)
    row = places.copy()
    for i, value in enumerate(a, start=1):
        changed = np.concatenate([[i], np.minimum(row[:-1] + (b != value), row[1:] + 1)])
        # insertions go from left to right: a running minimum of what is left after paying for them
        row = np.minimum.accumulate(changed - places) + places
    return int(row[-1])
