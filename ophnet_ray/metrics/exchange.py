"""Significance of a difference between two models, by exchange of their counts on each case.

If two models are equally good, it is chance which of them has which counts on a case. So the
counts are exchanged on some of the cases, and the difference is computed again: the share of
exchanges with a difference at least as large is the p-value. See Noreen, "Computer-Intensive
Methods for Testing Hypotheses" (1989), and for F1 Yeh, "More accurate tests for the statistical
significance of result differences" (COLING 2000). A test that flips the signs of differences of
single cases would need a score that is a mean over cases. Macro-F1 is none: it is computed from
the sum of all counts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import ScoreFn

LEVEL = 0.05
"""Largest p-value at which two models are called different."""
MAX_EXACT_CASES = 12
"""Cases up to which all exchanges are tried: 2048 for 12."""
NUM_EXCHANGES = 2000
"""Exchanges that are drawn for more cases."""
_ROUNDING = 1e-9


def choose_exchanges(num_cases: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the cases whose counts are exchanged, 1 or 0, (exchanges, C).

    Up to ``MAX_EXACT_CASES`` these are all exchanges that differ: the first case stays, because
    exchanging the other cases instead gives the same difference with the other sign. The first row
    exchanges nothing.
    """
    if num_cases <= MAX_EXACT_CASES:
        numbers = np.arange(2 ** max(num_cases - 1, 0))
        bits = numbers[:, None] >> np.arange(num_cases)[None, ::-1] & 1
        return bits.astype(np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, (NUM_EXCHANGES, num_cases))
    # what was observed is one of the exchanges: no p-value is 0 (Phipson and Smyth, 2010)
    return np.concatenate([np.zeros((1, num_cases)), drawn])


def exchange_p_values(
    before: NDArray[np.float64], after: NDArray[np.float64], score: ScoreFn, seed: int = 0
) -> NDArray[np.float64]:
    """Return the two-sided p-value of the difference of two models in each of S scores, (S,).

    Args:
        before: Counts of one model by case, (C, …).
        after: Counts of the other model on the same cases, in the same order.
        score: Counts → S scores.
        seed: Of the exchanges that are drawn for many cases.
    """
    # where both have the same counts, an exchange changes nothing
    differing = (after - before)[[bool(each.any()) for each in after - before]]
    exchanged = np.tensordot(choose_exchanges(len(differing), seed), differing, axes=1)
    total, first = before.sum(axis=0) + after.sum(axis=0), before.sum(axis=0)
    differences = np.abs(
        [
            np.asarray(score(total - own)) - np.asarray(score(own))
            for own in (first + each for each in exchanged)
        ]
    )
    return np.asarray((differences >= differences[0] - _ROUNDING).mean(axis=0))


def smallest_p_value(num_differing: int) -> float:
    """Return the smallest p-value that models can reach which differ on this number of cases."""
    if num_differing > MAX_EXACT_CASES:
        return 1 / (NUM_EXCHANGES + 1)
    return float(2.0 ** (1 - num_differing)) if num_differing else 1.0


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, raised so that any false finding stays as rare as one.

    See Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted
