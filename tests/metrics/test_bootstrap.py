"""Intervals over cases."""

import numpy as np
import pytest
from scipy.special import expit, stdtrit

from ophnet_ray.metrics.bootstrap import (
    Interval,
    bootstrap_scores,
    difference_interval,
    draw_cases,
    interval_over_cases,
    score_interval,
    t_quantile,
)
from ophnet_ray.metrics.classification import accuracy, accuracy_of_rows, macro_f1_present
from tests.benchmarks.fold_intervals import cover_expected_score
from tests.helpers.pooled_folds import cross_validate, learn_linear

pytestmark = pytest.mark.unit


def confusion(num_right, num_wrong):
    return np.array([[num_right, num_wrong], [0, 0]], dtype=np.int64)


def test_cases_that_agree_leave_no_doubt():
    assert interval_over_cases(np.stack([confusion(3, 1)] * 5), accuracy) == pytest.approx(
        (0.75, 0.75)
    )


@pytest.mark.parametrize(("num_cases", "lowest"), [(3, 0.90), (5, 0.90), (40, 0.92)])
@pytest.mark.parametrize("mean", [1.5, 3.2])
def test_the_interval_covers_the_truth_as_often_as_it_says(num_cases, lowest, mean):
    """Cases of unequal difficulty, with an accuracy of 0.77 or 0.93 on average."""
    rng = np.random.default_rng(0)
    truth = expit(rng.normal(mean, 1, 1_000_000)).mean()
    held = 0
    for trial in range(300):
        right = rng.binomial(200, expit(rng.normal(mean, 1, num_cases)))
        cases = np.stack([confusion(r, 200 - r) for r in right])
        resampled = bootstrap_scores(cases, accuracy, 200, seed=trial)
        low, high = score_interval(accuracy(cases.sum(axis=0)), resampled, num_cases)
        held += low <= truth <= high
    assert lowest <= held / 300 <= 0.99


def test_cases_that_train_each_others_models_get_wider_intervals():
    """Of 8 cases in 4 folds, 200 times; intervals of independent cases would be too narrow."""
    drawn = [cross_validate(learn_linear, 8, 4, seed) for seed in range(200)]
    _, covered = cover_expected_score(drawn, accuracy_of_rows, num_folds=4)
    _, alone = cover_expected_score(drawn, accuracy_of_rows, num_folds=None)
    assert 0.93 <= covered <= 0.99
    assert alone < 0.90


def test_pairing_by_case_sees_a_small_steady_gain_that_the_cases_differences_would_hide():
    right = np.random.default_rng(1).integers(5, 95, size=30)
    before = np.stack([confusion(r, 100 - r) for r in right])
    after = np.stack([confusion(r + 2, 98 - r) for r in right])
    differences = bootstrap_scores(after, accuracy) - bootstrap_scores(before, accuracy)
    assert difference_interval(0.02, differences, 30).low > 0
    assert interval_over_cases(after, accuracy).low < 0.5


def test_the_difference_of_equal_counts_has_an_interval_around_nothing():
    counts = np.array([[[9, 1], [2, 8]]] * 5)
    difference = bootstrap_scores(counts, macro_f1_present) - bootstrap_scores(
        counts, macro_f1_present
    )
    assert difference_interval(0.0, difference, 5) == Interval(0.0, 0.0)


def test_equal_resamples_are_scored_once_and_each_has_its_score():
    counts = np.random.default_rng(0).integers(0, 50, (3, 2, 2))
    scored = []

    def score(confusion):
        scored.append(confusion)
        return [accuracy(confusion), macro_f1_present(confusion)]

    found = bootstrap_scores(counts, score)
    assert len(scored) == 10, "three cases can be drawn in ten ways"
    one_by_one = [np.tensordot(draw, counts, axes=1) for draw in draw_cases(3)]
    np.testing.assert_array_equal(found, [score(confusion) for confusion in one_by_one])


def test_a_single_case_has_no_interval_and_two_say_little():
    counts = np.stack([confusion(3, 1)])
    assert interval_over_cases(counts, accuracy) is None
    two = interval_over_cases(np.stack([confusion(4, 0), confusion(2, 2)]), accuracy)
    assert two.low < 0.1
    assert two.high > 0.99


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_interval_of_a_perfect_or_void_score_stays_within_its_scale(value):
    assert score_interval(value, np.full(9, value), 4) == Interval(value, value)
    low, high = score_interval(value, np.linspace(0.1, 0.9, 9), 4)
    assert low <= value <= high
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 9, 20, 100, 10_000])
def test_quantiles_of_students_t(degrees):
    assert t_quantile(degrees) == pytest.approx(stdtrit(degrees, 0.975), abs=4e-3)
