"""Counts → scores, in numpy, each under a named convention.

Counts add up over batches, workers and videos; a score divides once, at the end. A confusion is
(K, K), or (K, K+1) where the last column counts what got no prediction: it is wrong, and no class
has predicted it.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NO_PREDICTION = -1
CALIBRATION_BINS = 15

Over = Literal["all", "present", "present_or_predicted"]
"""Which classes a mean over classes goes over.

``all``: every declared class, with 0 for one that occurs nowhere, as the public scorer of the APTOS
2025 challenge does (scikit-learn with ``labels=range(K), zero_division=0``). Perfect predictions
score less than 1 on a split that lacks a class. ``present``: the classes among the labels; the same
terms for every model. ``present_or_predicted``: scikit-learn's own default, and torchmetrics'.
"""


def confusion_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs: (K, K), row = label, column = prediction."""
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_with_missing(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs: (K, K+1); the last column is for predictions of ``NO_PREDICTION``."""
    columns = np.where(predictions == NO_PREDICTION, num_classes, predictions)
    pairs = labels * (num_classes + 1) + columns
    counts = np.bincount(pairs, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the windows or frames predicted right; 0 when there are none."""
    total = int(confusion.sum())
    return float(np.trace(confusion) / total) if total else 0.0


def precision_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FP) of each class, (K,); 0 where the denominator is 0."""
    return _divide(np.diagonal(confusion), _predicted(confusion))


def recall_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FN) of each class, (K,); 0 where the denominator is 0."""
    return _divide(np.diagonal(confusion), confusion.sum(axis=1))


def f1_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) of each class, (K,); 0 where the denominator is 0."""
    return _divide(2 * np.diagonal(confusion), _predicted(confusion) + confusion.sum(axis=1))


def jaccard_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FP + FN) of each class, (K,); 0 where the denominator is 0."""
    hits = np.diagonal(confusion)
    return _divide(hits, _predicted(confusion) + confusion.sum(axis=1) - hits)


def macro(values: NDArray[np.float64], confusion: NDArray[np.int64], over: Over) -> float:
    """Mean of a per-class score over the classes of a convention; 0 when there are none."""
    is_present = confusion.sum(axis=1) > 0
    if over == "all":
        chosen = np.ones_like(is_present)
    elif over == "present":
        chosen = is_present
    else:
        chosen = is_present | (_predicted(confusion) > 0)
    return float(values[chosen].mean()) if chosen.any() else 0.0


def macro_f1_present(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur among the labels; 0 when there are none.

    A class that is only predicted costs the others precision but is no term of the mean, so that
    the number of terms is the same in every epoch and for every model. It is scikit-learn's
    ``f1_score(average="macro", labels=<classes in y_true>, zero_division=0)``.
    """
    return macro(f1_per_class(confusion), confusion, "present")


def macro_f1_all(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over all declared classes: ``f1_score(labels=range(K), zero_division=0)``."""
    return macro(f1_per_class(confusion), confusion, "all")


def reachable_macro_f1_all(confusion: NDArray[np.int64]) -> float:
    """What perfect predictions would score: the share of the declared classes that occur."""
    return float((confusion.sum(axis=1) > 0).mean())


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur: scikit-learn's ``balanced_accuracy_score``."""
    return macro(recall_per_class(confusion), confusion, "present")


def video_accuracies(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Frame accuracy of each video, (V,), from (V, K, K+1). Its mean is APTOS's accuracy."""
    hits = np.trace(confusions, axis1=1, axis2=2)
    return _divide(hits, confusions.sum(axis=(1, 2)))


def aptos_rank_score(video_accuracy: float, f1_all: float) -> float:
    """(mean video-level accuracy + macro-F1 over all declared classes) / 2.

    The ranking of the APTOS 2025 challenge (``minghu0830/APTOS2025_OphNet``).
    """
    return (video_accuracy + f1_all) / 2


def top_k_hits(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], k: int
) -> NDArray[np.bool_]:
    """Whether each label is among the k most probable classes, (N,).

    Of equal probabilities the class with the lower index goes first. A row of NaN, which stands
    for no prediction, is never right.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels][:, None]
    ahead = (probabilities > own).sum(axis=1)
    equal_before = (probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])
    return np.asarray((ahead + equal_before.sum(axis=1) < k) & ~np.isnan(own[:, 0]))


def calibration_counts(
    confidence: NDArray[np.float32], is_right: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> NDArray[np.float64]:
    """Sums by confidence, (bins, 3): predictions, their confidence, those that are right.

    Bin b holds the confidences in (b/bins, (b+1)/bins], and the first one 0 as well.
    """
    values = confidence.astype(np.float64)
    place = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    columns = (np.ones_like(values), values, is_right.astype(np.float64))
    return np.stack([np.bincount(place, column, minlength=bins) for column in columns], axis=1)


def expected_calibration_error(counts: NDArray[np.float64]) -> float:
    """Mean gap between confidence and accuracy, weighted by bins of equal width.

    See "On Calibration of Modern Neural Networks" (arXiv:1706.04599), with 15 bins of the top
    class's probability. Frames without a prediction have no confidence and are left out.
    """
    total = counts[:, 0].sum()
    return float(np.abs(counts[:, 1] - counts[:, 2]).sum() / total) if total else 0.0


def _predicted(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each class was predicted, (K,)."""
    return np.asarray(confusion[:, : len(confusion)].sum(axis=0))


def _divide(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(numerator / np.maximum(denominator, 1), dtype=np.float64)


def rank_epoch(scores: Mapping[str, float]) -> tuple[float, float]:
    """What the best epoch has most of: macro-F1; of equals, the lower validation loss wins.

    The one rule by which checkpoints are kept, trials compared and pages marked.
    """
    return scores["val_macro_f1"], -scores["val_loss"]
