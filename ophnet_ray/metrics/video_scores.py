"""Scores of one video by itself, as papers on Cholec80 give them: phase by phase, then the mean.

A phase that the video's truth does not show is left out. Precision is also left out for a phase
that is never predicted (0 / 0), as the published MATLAB script ``Evaluate.m`` leaves NaN out of its
means. Scores of videos are averaged over videos, each video once.

The *relaxed* variant is that of ``Evaluate.m`` (M2CAI 2016 challenge): within 10 seconds of a true
boundary, the phase on its other side is right, too. Such a frame counts for its true and for its
predicted phase, so that precision and recall could exceed 1, where they are cut. Late and early
changes cost nothing, and short phases are all tolerance: relaxed scores are higher than strict
ones, and comparable with relaxed ones only; see "Metrics Matter in Surgical Phase Recognition"
(arXiv:2305.13961). ``Evaluate.m`` allows the neighbours in Cholec80's order of phases; here they
are the phases before and after in the video itself, for any data set.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.segmental import find_stretches
from ophnet_ray.metrics.timelines import NOT_ANNOTATED

RELAXED_S = 10.0
"""Seconds on both sides of a true boundary within which the relaxed variant takes both phases."""


class PhaseMeans(NamedTuple):
    """Scores of one video, each in [0, 1]; all but the accuracy are means over its phases."""

    accuracy: float
    jaccard: float
    precision: float
    recall: float


def score_phases_of_video(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], tolerance: int = 0
) -> PhaseMeans:
    """Score one video phase by phase.

    Args:
        labels: True labels (N,), at least one of them annotated; ``NOT_ANNOTATED`` between
            segments: such frames are not scored, and their time passes.
        predictions: (N,), ``NO_PREDICTION`` where there is none.
        tolerance: Frames on each side of a true boundary that the relaxed variant tolerates; 0 is
            the strict score.
    """
    is_right = find_right_frames(labels, predictions, tolerance)
    is_annotated = labels != NOT_ANNOTATED
    is_right, labels = is_right[is_annotated], labels[is_annotated]
    predictions = predictions[is_annotated]
    jaccard, precision, recall = [], [], []
    for phase in np.unique(labels):
        is_true, is_predicted = labels == phase, predictions == phase
        hits = int(is_right[is_true | is_predicted].sum())
        jaccard.append(hits / int((is_true | is_predicted).sum()))
        recall.append(min(hits / int(is_true.sum()), 1.0))
        if is_predicted.any():
            precision.append(min(hits / int(is_predicted.sum()), 1.0))
    return PhaseMeans(
        float(is_right.mean()),
        float(np.mean(jaccard)),
        float(np.mean(precision)) if precision else 0.0,
        float(np.mean(recall)),
    )


def find_right_frames(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], tolerance: int = 0
) -> NDArray[np.bool_]:
    """Return True for each right frame, (N,), with a tolerance at true boundaries.

    A frame may have the label of the true stretch before or after its own that is less than
    ``tolerance`` frames away. Frames that are not annotated count in that distance; the boundary
    lies somewhere among them.
    """
    is_right = labels == predictions
    names, starts, stops = find_stretches(labels)
    # annotated again after a gap, a phase goes on
    is_new = np.append(True, names[1:] != names[:-1])
    names, starts, stops = names[is_new], starts[is_new], stops[np.append(is_new[1:], True)]
    for i in range(1, len(names)):
        reach = max(tolerance - (starts[i] - stops[i - 1]), 0)
        late = slice(starts[i], min(starts[i] + reach, stops[i]))
        is_right[late] |= predictions[late] == names[i - 1]
        early = slice(max(stops[i - 1] - reach, starts[i - 1]), stops[i - 1])
        is_right[early] |= predictions[early] == names[i]
    return np.asarray(is_right)
