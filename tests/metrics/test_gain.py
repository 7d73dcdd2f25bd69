"""The gain of a search: what the best of many trials is worth on cases that did not choose it."""

import numpy as np
import pytest
from scipy.special import expit, stdtrit

from ophnet_ray.metrics.classification import accuracy_of_rows, macro_f1_of_rows, macro_f1_present
from ophnet_ray.metrics.gain import Contender, estimate_gain, estimate_gain_of_rows

pytestmark = pytest.mark.unit

NUM_PHASES, NUM_CASES, NUM_TRIALS = 4, 10, 12


def make_trials(rng, better=0.0):
    """Counts of trials that differ by chance in each case; the last may be better on purpose."""
    difficulty = rng.normal(1, 1, NUM_CASES)
    trials = []
    for trial in range(NUM_TRIALS):
        lift = better if trial == NUM_TRIALS - 1 else 0.0
        right = rng.binomial(10, expit(difficulty + lift + rng.normal(0, 0.35, NUM_CASES)))
        counts = np.zeros((NUM_CASES, NUM_PHASES, NUM_PHASES), dtype=np.int64)
        for phase in range(NUM_PHASES):
            counts[:, phase, phase] = right
            counts[:, phase, (phase + 1) % NUM_PHASES] = 10 - right
        trials.append(counts)
    return trials


def lead_on_all_cases(trials):
    scores = [macro_f1_present(counts.sum(axis=0)) for counts in trials]
    return max(scores) - scores[0]


def test_the_best_of_equal_trials_gains_nothing():
    rng = np.random.default_rng(0)
    searches = [make_trials(rng) for _ in range(12)]
    gains = [estimate_gain_of_rows(trials, 0, macro_f1_of_rows) for trials in searches]
    assert np.mean([lead_on_all_cases(trials) for trials in searches]) > 0.05
    assert abs(np.mean([gain.value for gain in gains])) < 0.02
    assert sum(gain.interval.low > 0 for gain in gains) <= 1


def test_a_true_gain_stays():
    trials = make_trials(np.random.default_rng(1), better=2.0)
    gain = estimate_gain_of_rows(trials, 0, macro_f1_of_rows)
    assert gain.value == pytest.approx(lead_on_all_cases(trials), abs=0.05)
    assert gain.interval.low > 0


@pytest.mark.parametrize("num_cases", [5, 20])
def test_a_choice_that_is_certain_has_the_interval_of_the_paired_t_test(num_cases):
    leads = np.random.default_rng(4).integers(10, 50, num_cases)
    counts = [np.zeros((num_cases, 2, 2)) for _ in range(2)]
    for own, right in zip(counts, (30, 30 + leads), strict=True):
        own[:, 0, 0], own[:, 0, 1] = right, 100 - right
    gain = estimate_gain_of_rows(counts, 0, accuracy_of_rows)
    reach = stdtrit(num_cases - 1, 0.975) * leads.std(ddof=1) / 100 / num_cases**0.5
    assert gain.interval.high - gain.value == pytest.approx(reach, rel=0.05)


def test_trials_with_equal_counts_gain_exactly_nothing():
    (counts, *_) = make_trials(np.random.default_rng(2))
    gain = estimate_gain_of_rows([counts] * 3, 1, macro_f1_of_rows)
    assert (gain.value, gain.interval) == (0.0, (0.0, 0.0))


def test_two_cases_are_too_few():
    trials = [counts[:2] for counts in make_trials(np.random.default_rng(3))]
    assert estimate_gain_of_rows(trials, 0, macro_f1_of_rows) is None


def test_a_stopped_trial_gains_nothing_over_a_base_that_starts_slowly():
    """Equal in the end: it leads the base at its last epoch by as much as the survivors did."""
    (end, early, *_) = make_trials(np.random.default_rng(4))
    survivor = (early, end)
    contenders = [Contender(end), Contender(end), Contender(early, survivors=(survivor,))]
    gain = estimate_gain(contenders, end, macro_f1_of_rows)
    assert gain.value == pytest.approx(0, abs=1e-12)


def test_a_stopped_trial_rises_to_its_end_as_the_survivors_did_on_average():
    (base, own, then, end, late_then, late_end, *_) = make_trials(np.random.default_rng(5))
    survivors = ((then, end), (late_then, late_end))
    gain = estimate_gain([Contender(own, survivors=survivors)], base, macro_f1_of_rows)
    steps = [(own, 1), (base, -1), (end, 0.5), (then, -0.5), (late_end, 0.5), (late_then, -0.5)]
    lead = sum(weight * macro_f1_present(counts.sum(axis=0)) for counts, weight in steps)
    assert gain.value == pytest.approx(lead, abs=0.05)
