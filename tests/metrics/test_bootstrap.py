"""Intervals over cases."""

import numpy as np
import pytest

from ophnet_ray.metrics.bootstrap import (
    Interval,
    bootstrap_scores,
    interval_over_cases,
    percentile_interval,
)
from ophnet_ray.metrics.classification import accuracy, macro_f1_present

pytestmark = pytest.mark.unit


def confusion(num_right, num_wrong):
    return np.array([[num_right, num_wrong], [0, 0]], dtype=np.int64)


def test_cases_that_agree_leave_no_doubt():
    interval = percentile_interval(bootstrap_scores(np.stack([confusion(3, 1)] * 5), accuracy))
    assert interval == (0.75, 0.75)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Cases whose accuracies are drawn around 0.7: 95 % of the intervals must hold 0.7."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        right = rng.binomial(20, rng.beta(7, 3, size=40))
        cases = np.stack([confusion(r, 20 - r) for r in right])
        low, high = percentile_interval(bootstrap_scores(cases, accuracy, 300, seed=trial))
        held += low <= 0.7 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_pairing_by_case_sees_a_small_steady_gain_that_the_cases_differences_would_hide():
    right = np.random.default_rng(1).integers(5, 95, size=30)
    before = np.stack([confusion(r, 100 - r) for r in right])
    after = np.stack([confusion(r + 2, 98 - r) for r in right])
    gain = bootstrap_scores(after, accuracy) - bootstrap_scores(before, accuracy)
    assert percentile_interval(gain).low > 0
    assert percentile_interval(bootstrap_scores(after, accuracy)).low < 0.5


def test_the_difference_of_equal_counts_has_an_interval_around_nothing():
    counts = np.array([[[9, 1], [2, 8]]] * 5)
    difference = bootstrap_scores(counts, macro_f1_present) - bootstrap_scores(
        counts, macro_f1_present
    )
    assert percentile_interval(difference) == Interval(0.0, 0.0)


def test_a_single_case_has_no_interval():
    counts = np.stack([confusion(3, 1)])
    assert interval_over_cases(counts, accuracy) is None
    assert interval_over_cases(np.concatenate([counts, counts]), accuracy) == Interval(0.75, 0.75)
