"""Two models on the same cases: differences, and intervals of phases that few cases show."""

import numpy as np
import pytest

from ophnet_ray.metrics.bootstrap import bootstrap_scores, difference_interval, fold_error_factor
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.metrics.comparison import compare_models, count_windows
from ophnet_ray.metrics.verdict import judge

pytestmark = pytest.mark.unit

PHASES = ("cut", "sew", "rare")


def draw_counts(seed, right, num_cases=7, num_rare=2):
    rng = np.random.default_rng(seed)
    counts = np.zeros((num_cases, 3, 3), dtype=np.int64)
    for phase, frames in enumerate((40, 60, 20)):
        hits = rng.binomial(frames, right, num_cases)
        counts[:, phase, phase] = hits
        counts[:, phase, (phase + 1) % 3] = frames - hits
    counts[num_rare:, 2] = 0
    return counts


def compare(before, after, num_folds=None):
    cases = [f"case{i}" for i in range(len(before))]
    pair = (("a", before), ("b", after))
    return compare_models(
        *(count_windows(n, PHASES, cases, c, num_folds=num_folds) for n, c in pair)
    )


def test_the_difference_of_a_score_has_the_interval_of_the_paired_bootstrap():
    before, after = draw_counts(0, 0.6), draw_counts(1, 0.8)
    found = compare(before, after)
    assert found.main.name == "macro_f1_present"
    scores = [macro_f1_present(counts.sum(axis=0)) for counts in (before, after)]
    assert (found.main.before, found.main.after) == pytest.approx(tuple(scores))
    resampled = [bootstrap_scores(counts, macro_f1_present) for counts in (before, after)]
    interval = difference_interval(scores[1] - scores[0], resampled[1] - resampled[0], 7)
    assert found.main.interval == pytest.approx(interval)
    assert found.num_differing == 7


def test_a_phase_that_two_cases_show_has_the_interval_of_two_cases():
    found = compare(draw_counts(0, 0.6), draw_counts(1, 0.8))
    phases = {phase.f1.name: phase for phase in found.phases}
    assert phases["rare"].num_cases == 2
    low, high = phases["rare"].f1.interval
    assert high - low > 0.5, "Student's t with one degree of freedom"
    assert all(phase.p_holm >= phase.f1.p_value for phase in found.phases)
    lone = compare(draw_counts(0, 0.6, num_rare=1), draw_counts(1, 0.8, num_rare=1))
    assert next(p for p in lone.phases if p.f1.name == "rare").f1.interval is None


def test_a_phase_that_no_case_shows_is_left_out_and_changes_are_sorted():
    found = compare(draw_counts(0, 0.6, num_rare=0), draw_counts(1, 0.8, num_rare=0))
    assert {phase.f1.name for phase in found.phases} == {"cut", "sew"}
    for changes in ([p.f1.value for p in found.phases], [c.value for c in found.cases]):
        assert [abs(change) for change in changes] == sorted(map(abs, changes), reverse=True)


def test_a_reversed_difference_is_that_of_the_models_the_other_way_round():
    before, after = draw_counts(0, 0.6), draw_counts(1, 0.8)
    turned, other = compare(before, after).main.reversed(), compare(after, before).main
    assert turned.value == pytest.approx(other.value)
    assert turned.interval == pytest.approx(other.interval)


def test_scores_of_a_case_count_parts_of_segments():
    """A segment that half of its windows get right counts half."""
    before = np.array([[[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]]])
    after = np.array([[[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 0]]])
    (case,) = compare(before, after).cases
    assert (case.accuracy_before, case.accuracy_after) == (0.5, 0.75)


def test_cases_of_folds_have_wider_intervals_and_decide_less():
    """Over four folds 1.53 times the standard error; the p-value stays that over cases."""
    before, after = draw_counts(4, 0.6), draw_counts(5, 0.64)
    alone, pooled = compare(before, after), compare(before, after, num_folds=4)
    for one, other in [(alone.main, pooled.main), (alone.phases[0].f1, pooled.phases[0].f1)]:
        reaches = [each.interval.high - each.interval.low for each in (one, other)]
        assert reaches[1] == pytest.approx(fold_error_factor(4) * reaches[0])
        assert one.p_value == other.p_value
    assert [judge([each])[0].is_different for each in (alone, pooled)] == [True, False]
