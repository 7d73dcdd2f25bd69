"""Counts → scores, in numpy, each under a named convention.

Counts add up over batches, workers and videos; a score divides once, at the end.
"""

import numpy as np
from numpy.typing import NDArray


def confusion_counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs: (K, K), row = label, column = prediction."""
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of the windows predicted right; 0 when there are none."""
    total = int(confusion.sum())
    return float(np.trace(confusion) / total) if total else 0.0


def f1_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) of each class, (K,); 0 where the denominator is 0."""
    true_positives = np.diagonal(confusion)
    denominator = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.asarray(2.0 * true_positives / np.maximum(denominator, 1), dtype=np.float64)


def macro_f1_present(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur among the labels; 0 when there are none.

    A class that is only predicted costs the others precision but is no term of the mean, so that
    the number of terms is the same in every epoch and for every model. It is scikit-learn's
    ``f1_score(average="macro", labels=<classes in y_true>, zero_division=0)``.
    """
    present = confusion.sum(axis=1) > 0
    return float(f1_per_class(confusion)[present].mean()) if present.any() else 0.0
