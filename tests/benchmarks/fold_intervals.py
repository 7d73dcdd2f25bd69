"""Intervals of scores that are pooled over folds: their coverage, and the gains that they find."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import draw_cases, score_interval
from ophnet_ray.metrics.classification import accuracy_of_rows, macro_f1_of_rows
from ophnet_ray.metrics.gain import Contender, RowScoreFn, estimate_gain
from tests.benchmarks.table import Figure
from tests.helpers.pooled_folds import (
    LEARNERS,
    Learner,
    cross_validate,
    draw_frames,
    learn_by_chance,
    learn_linear,
    score_folds,
)

NUM_FOLDS = 5
CASES = (5, 8, 10, 20, 40)
NUM_REPETITIONS = 600
NUM_RESAMPLES = 1000
GAIN_CASES = (6, 8, 10, 15, 20)
NUM_SEARCHES, NUM_EQUAL = 400, 7
"""Searches on folds, and the equal trials in each beside the one that is better."""
SCORES: dict[str, RowScoreFn] = {"macro-F1": macro_f1_of_rows, "accuracy": accuracy_of_rows}


def measure_fold_intervals(folder: Path) -> list[Figure]:
    """Measure how often an interval holds the expected score, and how often that of cases alone."""
    figures = []
    for learner, learn in LEARNERS.items():
        for num_cases in CASES:
            drawn = [
                cross_validate(learn, num_cases, NUM_FOLDS, seed) for seed in range(NUM_REPETITIONS)
            ]
            for name, score in SCORES.items():
                figures += _measure(f"{learner}, {num_cases} cases, {name}", drawn, score)
    return figures + [each for num_cases in GAIN_CASES for each in _measure_power(num_cases)]


def cover_expected_score(
    drawn: list[NDArray[np.float64]], score: RowScoreFn, num_folds: int | None
) -> tuple[float, float]:
    """Return the expected score of a procedure, and how often the interval holds it.

    Args:
        drawn: Counts by case of repetitions on other cases each, (C, K, K).
        score: Score of the counts.
        num_folds: See ``interval_over_cases``.
    """
    values = score(np.stack([counts.sum(axis=0) for counts in drawn]))
    truth, num_cases = float(values.mean()), len(drawn[0])
    draws = draw_cases(num_cases, NUM_RESAMPLES)
    intervals = [
        score_interval(value, score(np.tensordot(draws, counts, axes=1)), num_cases, num_folds)
        for value, counts in zip(values.tolist(), drawn, strict=True)
    ]
    return truth, float(np.mean([low <= truth <= high for low, high in intervals]))


def find_gains(num_cases: int, num_searches: int) -> tuple[float, float, float]:
    """Return the mean lead of a better trial, and how often a search on folds confirms a gain.

    Returns:
        Mean lead in macro-F1 over the equal trials; share of searches whose interval of the gain is
        above 0, and the share without the widening.
    """
    leads, found = [], np.zeros(2)
    weak = partial(learn_by_chance, num_hidden=6)
    for seed in range(num_searches):
        rng = np.random.default_rng((seed, num_cases, 179))
        frames = draw_frames(rng, num_cases)
        learners: list[Learner] = [*[weak] * NUM_EQUAL, learn_linear]
        trials = [score_folds(each, rng, frames, num_cases, NUM_FOLDS) for each in learners]
        *equal, better = macro_f1_of_rows(np.stack([counts.sum(axis=0) for counts in trials]))
        leads.append(better - np.mean(equal))
        contenders = [Contender(counts) for counts in trials]
        for index, num_folds in enumerate((NUM_FOLDS, None)):
            gain = estimate_gain(contenders, trials[0], macro_f1_of_rows, num_folds)
            found[index] += gain is not None and gain.interval.low > 0
    widened, alone = (found / num_searches).tolist()
    return float(np.mean(leads)), widened, alone


def _measure_power(num_cases: int) -> list[Figure]:
    lead, widened, alone = find_gains(num_cases, NUM_SEARCHES)
    times = f"{NUM_SEARCHES} searches, a trial of {NUM_EQUAL + 1} better by {lead:.3f}"
    return [
        Figure(f"searches on folds of {num_cases} cases: a gain is confirmed", widened, times),
        Figure("the same by the interval over cases alone", alone, ""),
    ]


def _measure(name: str, drawn: list[NDArray[np.float64]], score: RowScoreFn) -> list[Figure]:
    truth, covered = cover_expected_score(drawn, score, NUM_FOLDS)
    _, alone = cover_expected_score(drawn, score, None)
    times = f"{NUM_REPETITIONS} times, {NUM_FOLDS} folds, expected {truth:.3f}"
    return [
        Figure(f"{name}: covered by the interval", covered, times, ">= 0.93"),
        Figure("the same by the interval over cases alone", alone, ""),
    ]
