"""p-values by exchange of two models' counts, and their correction."""

import itertools

import numpy as np
import pytest

from ophnet_ray.metrics.classification import accuracy, macro_f1_present
from ophnet_ray.metrics.exchange import (
    MAX_EXACT_CASES,
    NUM_EXCHANGES,
    adjust_p_values,
    exchange_p_values,
    smallest_p_value,
)

pytestmark = pytest.mark.unit


def draw_counts(seed, num_cases, right=0.7):
    rng = np.random.default_rng(seed)
    hits = rng.binomial(30, right, (num_cases, 2))
    return np.array([[[a, 30 - a], [30 - b, b]] for a, b in hits])


def p_value(before, after, score=macro_f1_present):
    return float(exchange_p_values(before, after, lambda counts: [score(counts)])[0])


def test_the_p_value_is_the_share_of_all_exchanges_with_as_large_a_difference():
    before, after = draw_counts(0, 6), draw_counts(1, 6, 0.8)
    differences = []
    for swap in itertools.product([False, True], repeat=6):
        mask = np.array(swap)[:, None, None]
        one, other = np.where(mask, after, before), np.where(mask, before, after)
        differences.append(macro_f1_present(other.sum(axis=0)) - macro_f1_present(one.sum(axis=0)))
    observed = macro_f1_present(after.sum(axis=0)) - macro_f1_present(before.sum(axis=0))
    share = np.mean(np.abs(differences) >= abs(observed) - 1e-12)
    assert p_value(before, after) == pytest.approx(share)
    assert p_value(after, before) == pytest.approx(share)


@pytest.mark.parametrize("num_cases", [1, 2, 5, 8, MAX_EXACT_CASES])
def test_no_difference_of_a_few_cases_has_a_smaller_p_value_than_one_in_all_exchanges(num_cases):
    worst, best = draw_counts(0, num_cases, 0.0), draw_counts(0, num_cases, 1.0)
    assert p_value(worst, best, accuracy) == 2.0 ** (1 - num_cases)
    assert smallest_p_value(num_cases) == 2.0 ** (1 - num_cases)


def test_drawn_exchanges_are_close_to_all_of_them_and_never_give_0():
    before, after = draw_counts(0, 24), draw_counts(1, 24)
    assert p_value(before, before) == 1
    assert 0.05 < p_value(before, after) <= 1
    worst, best = draw_counts(0, 24, 0.0), draw_counts(0, 24, 1.0)
    assert p_value(worst, best) == smallest_p_value(24) == 1 / (NUM_EXCHANGES + 1)


def test_cases_on_which_models_agree_make_no_difference_more_significant():
    agreed = draw_counts(2, 15)
    worst = np.concatenate([draw_counts(0, 5, 0.0), agreed])
    best = np.concatenate([draw_counts(0, 5, 1.0), agreed])
    assert p_value(worst, best, accuracy) == smallest_p_value(5) == 0.0625


def test_equal_models_are_called_different_as_rarely_as_the_level_says():
    p_values = [p_value(draw_counts(2 * i, 7), draw_counts(2 * i + 1, 7)) for i in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.09


def test_holms_correction():
    """The example of Holm's steps: 3 x 0.01, 2 x 0.04, and no smaller one after it."""
    assert adjust_p_values([0.04, 0.01, 0.05]) == pytest.approx([0.08, 0.03, 0.08])
    assert adjust_p_values([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_p_values([]) == []
