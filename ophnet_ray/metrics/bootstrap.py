"""Confidence intervals of scores, from resampled cases.

Windows of one case are alike, so cases are resampled, not windows: the cluster bootstrap, see
Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8. Scores are
computed from counts; the counts of a resample are the sum over its cases.

The resamples give the standard error of a score. Student's t with C - 1 degrees of freedom for C
cases gives the interval around it, on the scale of log-odds, which stays inside [0, 1]. So every
interval holds its score. Percentiles of the resamples may leave it out, and are too narrow for few
cases: over 5 cases, their 95 % intervals covered the true score in 69 to 83 % of simulations, over
3 cases in 56 to 69 %. These intervals do in 92 to 94 % and in 91 to 95 %.

Cases of cross-validation are not independent: those of a fold share a model, and each case trains
the models of the others, see Bengio & Grandvalet, "No Unbiased Estimator of the Variance of K-Fold
Cross-Validation" (JMLR 5, 2004). As if they were, the intervals of pooled scores would cover the
expected score of the procedure in 77 to 94 % of simulations (``python -m tests.benchmarks folds``).
So their standard error is widened, see ``fold_error_factor``; they then cover it in 94 to 99 %.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
_NORMAL_QUANTILE = 1.959964
_T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764)
"""97.5 % quantiles of the normal distribution and of Student's t with 1 to 4 degrees of freedom."""

ScoreFn = Callable[[NDArray[Any]], float | Sequence[float]]
"""Counts → one score, e.g. ``classification.macro_f1_present``, or a sequence of scores."""


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


def draw_cases(
    num_cases: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Draw cases with replacement: how often each case is in each resample, (R, C)."""
    shares = np.full(num_cases, 1 / num_cases)
    draws = np.random.default_rng(seed).multinomial(num_cases, shares, size=num_resamples)
    return draws.astype(np.float64)


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
    draws = draw_cases(num_cases, num_resamples, seed)
    # of few cases most resamples are equal: five have 126 in all
    different, numbers = np.unique(draws, axis=0, return_inverse=True)
    counts = counts_by_case.astype(np.float64)  # BLAS adds them fast, and exactly up to 2^53
    scores = np.asarray([score(np.tensordot(draw, counts, axes=1)) for draw in different])
    return scores[numbers.reshape(-1)]


def interval_over_cases(
    counts_by_case: NDArray[Any], score: ScoreFn, num_folds: int | None = None
) -> Interval | None:
    """Return the 95 % interval of one score; None for a single case, which has no spread.

    Args:
        counts_by_case: (C, …), C > 0.
        score: Returns one score, in [0, 1].
        num_folds: Number of folds, where each case was scored by a model of the other folds; None
            where one model scored all cases.
    """
    num_cases = len(counts_by_case)
    if num_cases == 1:
        return None
    value = score(counts_by_case.sum(axis=0))
    resampled = bootstrap_scores(counts_by_case, score)
    return score_interval(float(value), resampled, num_cases, num_folds)  # type: ignore[arg-type] # one score


def fold_error_factor(num_folds: int) -> float:
    """Return the factor on the standard error over cases of a score that is pooled over folds.

    The models vary with their training cases: their part of the variance is taken to be that of a
    mean over as many cases, see the correction of Nadeau & Bengio, "Inference for the
    Generalization Error" (Machine Learning 52, 2003). Of C cases a model sees C (K - 1) / K.

    Args:
        num_folds: K, at least 2.
    """
    return math.sqrt(1 + num_folds / (num_folds - 1))


def score_interval(
    value: float, resampled: NDArray[np.float64], num_cases: int, num_folds: int | None = None
) -> Interval:
    """Return the 95 % interval of a score.

    Args:
        value: Score of all cases, in [0, 1].
        resampled: Scores of resamples of the cases, (R,).
        num_cases: At least 2.
        num_folds: See ``interval_over_cases``.
    """
    error = _standard_error(resampled, num_cases)
    if num_folds is not None:
        error *= fold_error_factor(num_folds)
    if not 0 < value < 1:
        # no log-odds; the cases differ only if the score of a resample may be another
        reach = t_quantile(num_cases - 1) * error
        return Interval(max(value - reach, 0.0), min(value + reach, 1.0))
    center = math.log(value / (1 - value))
    reach = t_quantile(num_cases - 1) * error / (value * (1 - value))
    low, high = _from_log_odds(center - reach), _from_log_odds(center + reach)
    return Interval(min(low, value), max(high, value))  # rounding must not leave out the score


def difference_interval(
    value: float, differences: NDArray[np.float64], num_cases: int, num_folds: int | None = None
) -> Interval:
    """Return the 95 % interval of the difference of two scores.

    Args:
        value: Difference on all cases, in [-1, 1].
        differences: Differences on resamples of the cases, (R,).
        num_cases: At least 2.
        num_folds: See ``interval_over_cases``; of both scores.
    """
    low, high = free_interval(value, differences, num_cases, num_folds)
    return Interval(max(low, -1.0), min(high, 1.0))


def free_interval(
    value: float, resampled: NDArray[np.float64], num_cases: int, num_folds: int | None = None
) -> Interval:
    """Return the 95 % interval of a number without bounds, e.g. a loss.

    Args:
        value: Number of all cases.
        resampled: Numbers of resamples of the cases, (R,).
        num_cases: At least 2.
        num_folds: See ``interval_over_cases``.
    """
    reach = t_quantile(num_cases - 1) * _standard_error(resampled, num_cases)
    if num_folds is not None:
        reach *= fold_error_factor(num_folds)
    return Interval(value - reach, value + reach)


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution, to within 0.003.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    # Abramowitz & Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5
    z = _NORMAL_QUANTILE
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def _standard_error(resampled: NDArray[np.float64], num_cases: int) -> float:
    """Return the standard error: resamples of C cases vary as 1/C, cases as 1/(C - 1)."""
    if resampled.min() == resampled.max():
        return 0.0  # np.std of equal numbers may not be
    return float(resampled.std()) * math.sqrt(num_cases / (num_cases - 1))


def _from_log_odds(value: float) -> float:
    """Return the probability of a log-odds, also of a large one."""
    return 0.5 * (1 + math.tanh(value / 2))
