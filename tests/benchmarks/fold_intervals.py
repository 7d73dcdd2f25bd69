"""Coverage of the 95 % intervals of scores that are pooled over the folds of a cross-validation."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import draw_cases, score_interval
from ophnet_ray.metrics.classification import accuracy_of_rows, macro_f1_of_rows
from ophnet_ray.metrics.gain import RowScoreFn
from tests.benchmarks.table import Figure
from tests.helpers.pooled_folds import LEARNERS, cross_validate

NUM_FOLDS = 5
CASES = (5, 8, 10, 20, 40)
NUM_REPETITIONS = 600
NUM_RESAMPLES = 1000
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
    return figures


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


def _measure(name: str, drawn: list[NDArray[np.float64]], score: RowScoreFn) -> list[Figure]:
    truth, covered = cover_expected_score(drawn, score, NUM_FOLDS)
    _, alone = cover_expected_score(drawn, score, None)
    times = f"{NUM_REPETITIONS} times, {NUM_FOLDS} folds, expected {truth:.3f}"
    return [
        Figure(f"{name}: covered by the interval", covered, times, ">= 0.93"),
        Figure("the same by the interval over cases alone", alone, ""),
    ]
