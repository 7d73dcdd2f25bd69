"""Gain of a search over the settings as given, on cases that did not choose the winner.

The best of many trials leads on the cases that chose it, also if all trials are equally good: with
20 equal trials by 0.08 macro-F1 over 5 cases, and by 0.04 over 20. So the choice is repeated on
resamples of the cases, and each time the chosen trial is scored on the cases that the resample
leaves out: the out-of-bag estimate of Breiman, "Out-of-bag estimation" (1996).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, ScoreFn, draw_cases, t_quantile

NUM_CHOICES = 1000
MIN_CASES = 3
"""Of two cases a resample leaves out one or none."""
_SHARE_LEFT_OUT = math.exp(-1)
"""Share of many cases that a resample leaves out on average."""


RowScoreFn = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Counts of R samples (R, …) → their scores (R,)."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean lead of the chosen trial on cases that did not choose it, and its 95 % interval."""

    value: float
    interval: Interval

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return {"value": self.value, "low": self.interval.low, "high": self.interval.high}


def estimate_gain(
    counts_by_trial: Sequence[NDArray[Any]], base: int, score: ScoreFn
) -> Gain | None:
    """Estimate what choosing the best trial gains over one of the trials.

    In simulations of 20 equal trials, the interval excluded 0 in 0 to 4 % of the searches, where
    that of the plain difference did in 17 to 41 %.

    Args:
        counts_by_trial: (C, K, K) counts of each trial, of the same cases in the same order.
        base: Index of the trial that the chosen one is compared with.
        score: Returns one score, which is maximised; of equal trials the first one is chosen.

    Returns:
        The gain; None with too few cases.
    """
    return estimate_gain_of_rows(
        counts_by_trial, base, lambda rows: np.asarray([score(row) for row in rows])
    )


def estimate_gain_of_rows(
    counts_by_trial: Sequence[NDArray[Any]], base: int, score_rows: RowScoreFn
) -> Gain | None:
    """Estimate the same, with a function that scores many samples in one call."""
    num_cases = len(counts_by_trial[base])
    if num_cases < MIN_CASES:
        return None
    draws = draw_cases(num_cases, NUM_CHOICES)
    draws = draws[(draws == 0).any(axis=1)]
    left_out = (draws == 0).astype(np.float64)
    scores = [_score_all(draws, counts, score_rows) for counts in counts_by_trial]
    chosen = np.argmax(scores, axis=0)
    gains = np.zeros(len(draws))
    for trial in set(chosen.tolist()) - {base}:
        rows = chosen == trial
        gains[rows] = _score_all(left_out[rows], counts_by_trial[trial], score_rows)
        gains[rows] -= _score_all(left_out[rows], counts_by_trial[base], score_rows)
    value = float(gains.mean())
    # all cases are more than those left out, so that their scores vary less
    variance = float(gains.var()) * _SHARE_LEFT_OUT * num_cases / (num_cases - 1)
    reach = t_quantile(num_cases - 1) * math.sqrt(variance)
    return Gain(value, Interval(max(value - reach, -1.0), min(value + reach, 1.0)))


def _score_all(
    weights: NDArray[np.float64], counts: NDArray[Any], score_rows: RowScoreFn
) -> NDArray[np.float64]:
    """Score the sums of the cases under each row of weights, (R, C) → (R,)."""
    return score_rows(np.tensordot(weights, counts.astype(np.float64), axes=1))
