"""Gain of a search over the settings as given, on cases that did not choose the winner.

The best of many trials leads on the cases that chose it, also if all trials are equally good: with
20 equal trials by 0.06 macro-F1 over 5 cases, and by 0.03 over 20. So the choice is repeated on
resamples of the cases, and each time the chosen trial is scored on the cases that the resample
leaves out: the out-of-bag estimate of Breiman, "Out-of-bag estimation" (1996), for the choice of a
configuration by Tsamardinos, Greasidou and Borboudakis, "Bootstrapping the out-of-sample
predictions for efficient and accurate cross-validation" (Machine Learning, 2018).

A trial that was stopped for a low score is a candidate like the others: those that were trained to
the end were chosen on all cases, also on those that a resample leaves out. Its score at the end is
not known. It is taken to rise as those of the survivors did on average from that epoch to the end.
The settings as given are no survivor: they are never stopped, and may start slowly.
``python -m tests.benchmarks searches`` simulates all of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, draw_cases, fold_error_factor, t_quantile

NUM_CHOICES = 1000
MIN_CASES = 3
"""Of two cases a resample leaves out one or none."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A trial that may be chosen; all counts are (C, …), of the same cases in the same order.

    ``counts``: at the trial's end. ``repeats``: counts of its settings under other seeds, the same
    seeds for all contenders that have any. ``survivors``: of a stopped trial, the counts of each
    survivor after as many epochs, and at the survivor's end.
    """

    counts: NDArray[Any]
    repeats: tuple[NDArray[Any], ...] = ()
    survivors: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()


def estimate_gain_of_rows(
    counts_by_trial: Sequence[NDArray[Any]], base: int, score_rows: RowScoreFn
) -> Gain | None:
    """Estimate what choosing the best trial gains over one of the trials.

    Args:
        counts_by_trial: Counts of each trial, (C, …), of the same cases in the same order.
        base: Index of the trial that the chosen one is compared with.
        score_rows: Scores, which are maximised; of equal trials the first one is chosen.

    Returns:
        The gain; None with too few cases.
    """
    contenders = [Contender(counts) for counts in counts_by_trial]
    return estimate_gain(contenders, counts_by_trial[base], score_rows)


def estimate_gain(
    contenders: Sequence[Contender],
    base: NDArray[Any],
    score_rows: RowScoreFn,
    num_folds: int | None = None,
) -> Gain | None:
    """Estimate what the choice of a search gains over the settings as given.

    The trial with the largest lead is chosen. If it was repeated, the best mean over the repeats
    decides among those that were.

    Args:
        contenders: The trials, at least one.
        base: Counts of the settings as given at their end.
        score_rows: Scores, which are maximised; of equal trials the first one is chosen.
        num_folds: Number of folds over which the cases of each trial are pooled; None for those of
            one model.

    Returns:
        The gain; None with too few cases.
    """
    num_cases = len(base)
    if num_cases < MIN_CASES:
        return None
    draws = draw_cases(num_cases, NUM_CHOICES)
    draws = draws[(draws == 0).any(axis=1)]
    left_out = (draws == 0).astype(np.float64)
    chosen = _choose(contenders, base, _Scores(draws, score_rows))
    gains = np.zeros(len(draws))
    for index in set(chosen.tolist()):
        rows = chosen == index
        gains[rows] = _leads(contenders[index], base, _Scores(left_out[rows], score_rows))
    value = float(gains.mean())
    # means over M of the C cases vary as 1/M - 1/C, as they are drawn without replacement; means
    # over C other cases vary as 1/C: a certain choice has the interval of the paired t-test
    left_out_mean = float((1 / left_out.sum(axis=1)).mean())
    variance = float(gains.var()) / (num_cases * left_out_mean - 1)
    reach = t_quantile(num_cases - 1) * math.sqrt(variance)
    if num_folds is not None:
        reach *= fold_error_factor(num_folds)
    return Gain(value, Interval(max(value - reach, -1.0), min(value + reach, 1.0)))


class _Scores:
    """Scores of counts under each row of weights; those of the same array are computed once."""

    def __init__(self, weights: NDArray[np.float64], score_rows: RowScoreFn) -> None:
        self._weights, self._score_rows = weights, score_rows
        self._known: dict[int, NDArray[np.float64]] = {}

    def of(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of the sums of the cases, (C, …) → (R,)."""
        if id(counts) not in self._known:
            sums = np.tensordot(self._weights, counts.astype(np.float64), axes=1)
            self._known[id(counts)] = self._score_rows(sums)
        return self._known[id(counts)]


def _choose(
    contenders: Sequence[Contender], base: NDArray[Any], scores: _Scores
) -> NDArray[np.int64]:
    """Return the index of the contender that each resample chooses, (R,)."""
    chosen = np.argmax([_leads(each, base, scores) for each in contenders], axis=0)
    finalists = [index for index, each in enumerate(contenders) if each.repeats]
    if not finalists:
        return np.asarray(chosen)
    means = [
        np.mean([scores.of(own) for own in contenders[index].repeats], axis=0)
        for index in finalists
    ]
    best = np.asarray(finalists)[np.argmax(means, axis=0)]
    return np.asarray(np.where(np.isin(chosen, finalists), best, chosen))


def _leads(contender: Contender, base: NDArray[Any], scores: _Scores) -> NDArray[np.float64]:
    """Return the lead over the base at the end under each row of weights, (R,)."""
    leads = scores.of(contender.counts) - scores.of(base)
    if not contender.survivors:
        return leads
    rises = [scores.of(end) - scores.of(then) for then, end in contender.survivors]
    return np.asarray(leads + np.mean(rises, axis=0))
