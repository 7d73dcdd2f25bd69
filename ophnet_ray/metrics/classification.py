"""Scores of single frames or windows from counts, in numpy, each under a named convention.

Counts are summed over batches, workers and videos; a score divides once, at the end. A confusion is
(K, K), row = label, column = prediction. With a last column, (K, K+1), it also counts frames
without a prediction: they are wrong, and they cost no class precision.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EPOCH_SCORE = "epoch_score"
"""Name of the score that ranks an epoch where it is not ``val_macro_f1``."""
NO_PREDICTION = -1
CALIBRATION_BINS = 15

ClassSelection = Literal["all", "present", "present_or_predicted"]
"""Classes included in a mean over classes.

``all``: every declared class; an absent one scores 0, as in the public scorer of the APTOS 2025
challenge (scikit-learn with ``labels=range(K), zero_division=0``). Perfect predictions score less
than 1 on a split that lacks a class. ``present``: the classes among the labels; the same terms for
every model. ``present_or_predicted``: the default of scikit-learn and of torchmetrics.
"""


def confusion_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs of label and prediction, (K, K)."""
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_with_missing(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs of label and prediction, (K, K+1); the last column is ``NO_PREDICTION``."""
    columns = np.where(predictions == NO_PREDICTION, num_classes, predictions)
    pairs = labels * (num_classes + 1) + columns
    counts = np.bincount(pairs, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of windows or frames that are predicted right; 0 without any."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else 0.0


def precision_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return TP / (TP + FP) of each class, (K,); 0 where the denominator is 0."""
    return _divide(np.diagonal(confusion), _predicted(confusion))


def recall_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return TP / (TP + FN) of each class, (K,); 0 where the denominator is 0."""
    return _divide(np.diagonal(confusion), confusion.sum(axis=1))


def f1_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each class, (K,); 0 where the denominator is 0."""
    return _divide(2 * np.diagonal(confusion), _predicted(confusion) + confusion.sum(axis=1))


def jaccard_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) of each class, (K,); 0 where the denominator is 0."""
    hits = np.diagonal(confusion)
    return _divide(hits, _predicted(confusion) + confusion.sum(axis=1) - hits)


def macro_mean(
    values: NDArray[np.float64], confusion: NDArray[np.int64], classes: ClassSelection
) -> float:
    """Return the mean of a per-class score (K,) over the selected classes; 0 without any."""
    is_present = confusion.sum(axis=1) > 0
    if classes == "all":
        chosen = np.ones_like(is_present)
    elif classes == "present":
        chosen = is_present
    else:
        chosen = is_present | (_predicted(confusion) > 0)
    return float(values[chosen].mean()) if chosen.any() else 0.0


def share_of_present(confusion: NDArray[np.int64], classes: ClassSelection) -> float:
    """Return the number of classes among the labels per selected class; 0 without any.

    A class that no label shows has precision, recall, F1 and Jaccard index 0. So the mean over the
    selected classes is this share of the mean over the classes among the labels.
    """
    is_present = confusion.sum(axis=1) > 0
    if classes == "present":
        return float(is_present.any())
    if classes == "all":
        return float(is_present.mean())
    chosen = is_present | (_predicted(confusion) > 0)
    return float(is_present.sum() / max(int(chosen.sum()), 1))


def macro_f1_present(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes among the labels; 0 without any.

    A class that is only predicted lowers the recall of others but is no term of the mean, so the
    number of terms is the same in every epoch and for every model. Equal to scikit-learn's
    ``f1_score(average="macro", labels=<classes in y_true>, zero_division=0)``.
    """
    return macro_mean(f1_per_class(confusion), confusion, "present")


def accuracy_of_rows(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``accuracy`` of many confusions in one step, (R, K, K) → (R,)."""
    hits = np.trace(confusions, axis1=1, axis2=2)
    totals = confusions.sum(axis=(1, 2))
    return np.asarray(hits / np.where(totals > 0, totals, 1))


def macro_f1_of_rows(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``macro_f1_present`` of many confusions in one step, (R, K, K) → (R,)."""
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    f1 = 2 * np.diagonal(confusions, axis1=1, axis2=2) / np.maximum(support + predicted, 1)
    is_present = support > 0
    return np.asarray((f1 * is_present).sum(axis=1) / np.maximum(is_present.sum(axis=1), 1))


def macro_f1_all(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 over all classes: ``f1_score(labels=range(K), zero_division=0)``."""
    return macro_mean(f1_per_class(confusion), confusion, "all")


def reachable_macro_f1_all(confusion: NDArray[np.int64]) -> float:
    """Return ``macro_f1_all`` of perfect predictions: the share of classes among the labels."""
    return share_of_present(confusion, "all")


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes among the labels.

    Equal to scikit-learn's ``balanced_accuracy_score``.
    """
    return macro_mean(recall_per_class(confusion), confusion, "present")


def aptos_rank_score(video_accuracy: float, f1_all: float) -> float:
    """Return (mean accuracy per video + macro-F1 over all declared classes) / 2.

    It ranks the entries of the APTOS 2025 challenge (``minghu0830/APTOS2025_OphNet``).
    """
    return (video_accuracy + f1_all) / 2


def top_k_hits(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], k: int
) -> NDArray[np.bool_]:
    """Return True for each label that is among the k most probable classes, (N,).

    Of equal probabilities, the class with the lower index has precedence. A row of NaN stands for
    no prediction and is never right.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels][:, None]
    ahead = (probabilities > own).sum(axis=1)
    equal_before = (probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])
    return np.asarray((ahead + equal_before.sum(axis=1) < k) & ~np.isnan(own[:, 0]))


def calibration_counts(
    confidence: NDArray[np.float32], is_right: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> NDArray[np.float64]:
    """Sum predictions, confidences and right predictions in each bin of confidence, (bins, 3).

    Bin b holds the confidences in (b/bins, (b+1)/bins]; the first bin also holds 0.
    """
    values = confidence.astype(np.float64)
    bin_of = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    columns = (np.ones_like(values), values, is_right.astype(np.float64))
    return np.stack([np.bincount(bin_of, column, minlength=bins) for column in columns], axis=1)


def expected_calibration_error(counts: NDArray[np.float64]) -> float:
    """Return the mean gap between confidence and accuracy per bin, weighted by predictions.

    See "On Calibration of Modern Neural Networks" (arXiv:1706.04599); 15 bins of equal width over
    the probability of the predicted class. Frames without a prediction are left out.
    """
    total = counts[:, 0].sum()
    return float(np.abs(counts[:, 1] - counts[:, 2]).sum() / total) if total else 0.0


def _predicted(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the predictions of each class, (K,)."""
    return np.asarray(confusion[:, : len(confusion)].sum(axis=0))


def _divide(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(numerator / np.maximum(denominator, 1), dtype=np.float64)


def rank_epoch(scores: Mapping[str, float]) -> tuple[float, float]:
    """Return the sort key of an epoch: macro-F1 first, then the lower validation loss.

    An epoch that holds an ``EPOCH_SCORE`` is ranked by that in place of macro-F1. The greatest key
    is the best epoch. The only rule by which checkpoints are kept, trials are compared and the best
    epoch is marked on pages.
    """
    return scores.get(EPOCH_SCORE, scores["val_macro_f1"]), -scores["val_loss"]


def epochs_since_best(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs after the best one; 0 without epochs."""
    ranks = [rank_epoch(scores) for scores in history]
    return len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0
