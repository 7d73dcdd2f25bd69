"""Confidence intervals of scores, from resampled cases.

Windows of one case are alike, so cases are resampled, not windows: the cluster bootstrap, see
Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8, with percentile
intervals. Scores are computed from counts; the counts of a resample are the sum over its cases.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

ScoreFn = Callable[[NDArray[Any]], float | Sequence[float]]
"""Counts → one score, e.g. ``classification.macro_f1_present``, or a sequence of scores."""


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def bootstrap_scores(
    counts_by_case: NDArray[Any],
    score: ScoreFn,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Score ``num_resamples`` resamples of the cases.

    Args:
        counts_by_case: (C, …) counts of each case, e.g. confusions (C, K, K).
        score: Function of counts of shape (…).
        num_resamples: R.
        seed: Equal seeds draw the same cases, so the scores of two models on the same cases can be
            subtracted pair by pair.

    Returns:
        Scores (R,), or (R, S) if ``score`` returns S scores.

    Raises:
        ValueError: There is no case.
    """
    num_cases = len(counts_by_case)
    if not num_cases:
        raise ValueError("no case to resample")
    draws = np.random.default_rng(seed).multinomial(
        num_cases, np.full(num_cases, 1 / num_cases), size=num_resamples
    )
    return np.asarray([score(np.tensordot(draw, counts_by_case, axes=1)) for draw in draws])


def interval_over_cases(counts_by_case: NDArray[Any], score: ScoreFn) -> Interval | None:
    """Return the 95 % interval of one score; None for a single case, which has no spread.

    Args:
        counts_by_case: (C, …), C > 0.
        score: Returns one score.
    """
    if len(counts_by_case) == 1:
        return None
    return percentile_interval(bootstrap_scores(counts_by_case, score))


def percentile_interval(scores: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return the central interval that holds this share of the scores."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(float(low), float(high))
