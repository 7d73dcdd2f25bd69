"""Counts of each validation case as short text, for small files, and scores of their resamples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, difference_interval, draw_cases

_MAX_ENTRIES = 100_000_000
"""Counts of one run in memory; a damaged file may claim any number of phases."""


def format_counts(confusion_by_case: NDArray[np.int64]) -> list[str]:
    """Return the counts (C, K, K) above 0: for each case ``label prediction count, …``."""
    return [
        ", ".join(f"{row} {column} {case[row, column]}" for row, column in np.argwhere(case))
        for case in confusion_by_case
    ]


def parse_counts(lines: Sequence[str], num_classes: int) -> NDArray[np.int64]:
    """Return the counts of ``format_counts``, (C, K, K).

    Raises:
        ValueError: A line holds anything else, or there are too many.
        OverflowError: A count is larger than 2^63.
    """
    if len(lines) * num_classes**2 > _MAX_ENTRIES:
        raise ValueError(f"{len(lines)} cases of {num_classes} phases are too many")
    counts = np.zeros((len(lines), num_classes, num_classes), dtype=np.int64)
    for case, line in zip(counts, lines, strict=True):
        for entry in filter(None, line.split(", ")):
            row, column, count = map(int, entry.split(" "))
            if min(row, column, count - 1) < 0 or max(row, column) >= num_classes:
                raise ValueError(f"no count: {entry}")
            case[row, column] = count
    return counts


def macro_f1_of_resamples(counts_by_case: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``macro_f1_present`` of resamples of the cases (C, K, K), all in one step, (R,).

    Equally many cases have equal draws, so that scores of two models can be subtracted.
    """
    num_cases, num_classes, _ = counts_by_case.shape
    hits = np.diagonal(counts_by_case, axis1=1, axis2=2)
    parts = np.stack([hits, counts_by_case.sum(axis=2), counts_by_case.sum(axis=1)], axis=1)
    sums = draw_cases(num_cases) @ parts.reshape(num_cases, -1).astype(np.float64)
    right, support, predicted = np.moveaxis(sums.reshape(-1, 3, num_classes), 1, 0)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    is_present = support > 0
    return np.asarray((f1 * is_present).sum(axis=1) / np.maximum(is_present.sum(axis=1), 1))


def lead_interval(
    best: NDArray[np.int64], other: NDArray[np.int64], lead: float, num_folds: int | None = None
) -> Interval | None:
    """Return the 95 % interval of a lead in macro-F1, in pairs; None for a single case.

    Args:
        best: Counts of the leading model by case, (C, K, K).
        other: Counts of the other model on the same cases.
        lead: The lead on all cases.
        num_folds: Number of folds over which the cases of both models are pooled, if they are.
    """
    if len(best) < 2:
        return None
    differences = macro_f1_of_resamples(best) - macro_f1_of_resamples(other)
    return difference_interval(lead, differences, len(best), num_folds)
