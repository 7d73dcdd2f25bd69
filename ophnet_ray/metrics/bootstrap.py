"""How sure a score is: what it would have been on other cases like these.

Windows of one case are alike, so cases are resampled, not windows: the cluster bootstrap, see
Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8, with percentile
intervals. Scores come from counts, and a resample's counts are the sum of its cases'.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

Score = Callable[[NDArray[Any]], float | Sequence[float]]
"""Counts → score, e.g. ``metrics.macro_f1_present``, or several at once."""


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def bootstrap_scores(
    counts_by_case: NDArray[Any],
    score: Score,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Score resamples of the cases.

    Args:
        counts_by_case: (C, …) counts of each case, e.g. confusions (C, K, K).
        score: Takes counts of the shape (…).
        num_resamples: R.
        seed: The same one draws the same cases, so that the scores of two models on the same cases
            may be subtracted pair by pair.

    Returns:
        (R,), or (R, S) where ``score`` gives S of them.

    Raises:
        ValueError: No case.
    """
    num_cases = len(counts_by_case)
    if not num_cases:
        raise ValueError("no case to resample")
    draws = np.random.default_rng(seed).multinomial(
        num_cases, np.full(num_cases, 1 / num_cases), size=num_resamples
    )
    return np.asarray([score(np.tensordot(draw, counts_by_case, axes=1)) for draw in draws])


def percentile_interval(scores: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """The middle of the scores that holds this share of them."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(float(low), float(high))
