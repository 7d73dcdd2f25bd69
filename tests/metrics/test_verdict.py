"""The sentence of a comparison."""

import pytest

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.comparison import MAIN_SCORE, Comparison, Difference
from ophnet_ray.metrics.verdict import format_p_value, judge

pytestmark = pytest.mark.unit


def make_comparison(value, interval, p_value, num_cases=10, num_differing=10):
    main = Difference(MAIN_SCORE, 0.5, 0.5 + value, interval, p_value)
    return Comparison("a", "b", "frames", num_cases, num_differing, (main,), (), ())


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        (
            make_comparison(0.05, Interval(0.02, 0.08), 0.0098),
            "b is better than a: macro-F1 +0.050 [+0.020, +0.080], p = 0.0098",
        ),
        (
            make_comparison(-0.05, Interval(-0.08, -0.02), 0.01),
            "a is better than b: macro-F1 +0.050 [+0.020, +0.080], p = 0.01",
        ),
        (
            make_comparison(0.05, Interval(-0.01, 0.11), 0.04),
            "no difference that 10 cases can show: macro-F1 +0.050 [-0.010, +0.110], p = 0.04",
        ),
        (
            make_comparison(0.05, Interval(0.01, 0.09), 0.0503),
            "no difference that 10 cases can show: macro-F1 +0.050 [+0.010, +0.090], p = 0.0503",
        ),
        (make_comparison(0, Interval(0, 0), 1, 10, 0), "a and b have equal counts on 10 cases"),
        (
            make_comparison(0.2, None, 1, 1, 1),
            (
                "no difference that 1 case can show: macro-F1 +0.200, p = 1; with 1 case p cannot "
                "be below 1, whatever the models do: it takes 6 that differ"
            ),
        ),
        (
            make_comparison(0.2, Interval(0.1, 0.3), 0.25, 10, 3),
            (
                "no difference that 10 cases can show: macro-F1 +0.200 [+0.100, +0.300], p = 0.25; "
                "where the models differ on 3 of 10 cases p cannot be below 0.25, whatever the "
                "models do: it takes 6 that differ"
            ),
        ),
    ],
)
def test_the_sentence_says_no_more_than_the_cases_show(comparison, sentence):
    (verdict,) = judge([comparison])
    assert verdict.sentence == sentence
    assert verdict.is_different == ("is better than" in sentence)


def test_several_comparisons_are_corrected_together():
    one = make_comparison(0.05, Interval(0.02, 0.08), 0.03)
    first, second = judge([one, one])
    assert first.p_value == second.p_value == pytest.approx(0.06)
    assert not first.is_different
    assert "(Holm over 2 comparisons)" in first.sentence


@pytest.mark.parametrize(
    ("p_value", "text"), [(1.0, "1"), (0.9961, "1"), (0.314, "0.31"), (2 / 2001, "0.001")]
)
def test_p_values_are_short(p_value, text):
    assert format_p_value(p_value) == text
