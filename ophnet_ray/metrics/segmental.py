"""Scores of segments instead of frames: edit score and F1@k.

They follow "MS-TCN" (arXiv:1903.01945) and its public ``eval.py``, in [0, 1] instead of percent.
A stretch is a sequence of equal labels, as long as possible.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.classification import NO_PREDICTION

OVERLAPS = (0.10, 0.25, 0.50)


class Stretches(NamedTuple):
    """Label, first index and one past the last index of each stretch, (S,) each."""

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def find_stretches(labels: NDArray[np.int64]) -> Stretches:
    """Find the stretches of a sequence; entries of ``NO_PREDICTION`` separate and are left out."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64)[: len(labels)]
    stops = np.concatenate([edges, [len(labels)]]).astype(np.int64)[: len(starts)]
    is_labelled = labels[starts] != NO_PREDICTION
    return Stretches(labels[starts][is_labelled], starts[is_labelled], stops[is_labelled])


def edit_score(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Return 1 - Levenshtein distance of the two orders of stretches / the longer one's length.

    Args:
        labels: (N,) of one video, N > 0.
        predictions: (N,).
    """
    truth, found = find_stretches(labels).labels, find_stretches(predictions).labels
    return 1 - _levenshtein(truth, found) / max(len(truth), len(found))


def segment_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], overlap: float
) -> NDArray[np.int64]:
    """Count true positives, false positives and false negatives among a video's stretches, (3,).

    A predicted stretch is compared with the true stretch of its label that it overlaps most. It is
    correct if their intersection over union is at least ``overlap`` and no earlier predicted
    stretch has matched that true stretch.
    """
    truth, found = find_stretches(labels), find_stretches(predictions)
    is_matched = np.zeros(len(truth.labels), dtype=bool)
    for label, start, stop in zip(*found, strict=True):
        shared = np.minimum(stop, truth.stops) - np.maximum(start, truth.starts)
        union = np.maximum(stop, truth.stops) - np.minimum(start, truth.starts)
        iou = np.where(truth.labels == label, shared / union, -1.0)
        best = int(iou.argmax())
        if iou[best] >= overlap:
            # a second match of the same true stretch adds no hit and so is a false positive
            is_matched[best] = True
    hits = int(is_matched.sum())
    return np.asarray([hits, len(found.labels) - hits, len(is_matched) - hits], dtype=np.int64)


def segmental_f1(counts: NDArray[np.int64]) -> float:
    """Return F1@k of counts summed over all videos, as MS-TCN does; 0 if all counts are 0."""
    hits, false_positives, false_negatives = (int(count) for count in counts)
    denominator = 2 * hits + false_positives + false_negatives
    return 2 * hits / denominator if denominator else 0.0


def _levenshtein(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return the number of insertions, deletions and substitutions from a to b.

    The table of distances is computed one row at a time.
    """
    columns = np.arange(len(b) + 1)
    row = columns.copy()
    for i, value in enumerate(a, start=1):
        changed = np.concatenate([[i], np.minimum(row[:-1] + (b != value), row[1:] + 1)])
        # insertions go from left to right: a running minimum after subtracting their cost
        row = np.minimum.accumulate(changed - columns) + columns
    return int(row[-1])
