"""Spread over folds, and held-out cases from the worst to the best."""

import numpy as np
import pytest

from ophnet_ray.metrics.fold_scores import (
    FoldCounts,
    find_mistakes,
    measure_spread,
    rank_held_out_cases,
)

pytestmark = pytest.mark.unit

RIGHT = np.diag([6, 4])
HALF = np.array([[3, 3], [1, 3]])


def test_the_worst_case_comes_first_with_its_fold_and_its_mistakes():
    folds = [FoldCounts(("a",), RIGHT[None]), FoldCounts(("b", "c"), np.stack([HALF, RIGHT]))]
    worst, *others = rank_held_out_cases(folds)
    assert (worst.case_id, worst.fold, worst.num_units) == ("b", 2, 10)
    assert worst.accuracy == pytest.approx(0.6)
    assert worst.mistakes == ((0, 1, 3), (1, 0, 1))
    assert [(case.case_id, case.macro_f1, case.mistakes) for case in others] == [
        ("a", 1.0, ()),
        ("c", 1.0, ()),
    ]


def test_a_fold_is_scored_by_the_sum_over_its_cases():
    fold = FoldCounts(("b", "c"), np.stack([HALF, RIGHT]))
    assert fold.accuracy == pytest.approx(16 / 20)
    low, high = fold.interval
    assert low < fold.macro_f1 < high
    assert FoldCounts(("a",), RIGHT[None]).interval is None


def test_the_spread_is_that_of_a_sample():
    spread = measure_spread([0.5, 0.7, 0.9])
    assert (spread.mean, spread.deviation) == pytest.approx((0.7, 0.2))
    assert (spread.low, spread.high) == (0.5, 0.9)


def test_only_so_many_mistakes_are_found():
    assert find_mistakes(HALF, 1) == ((0, 1, 3),)
    assert find_mistakes(RIGHT, 3) == ()
