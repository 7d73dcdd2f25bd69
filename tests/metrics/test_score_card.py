"""The score card, as JSON and as text."""

import json

import numpy as np
import pytest

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.score_card import (
    PhaseScore,
    Score,
    ScoreCard,
    build_window_card,
    format_score,
    score_phases,
)

pytestmark = pytest.mark.unit

SURE = Score("macro_f1_present", 0.5, "mean F1", Interval(0.25, 0.75))
ALONE = Score("video_accuracy_std", 0.125, "standard deviation")


def test_the_json_of_a_card_holds_ends_of_intervals_and_plain_lists():
    """The keys of ``scores.json``, which other programs read, in their order."""
    phase = PhaseScore("a", 1.0, 0.5, 0.75, 0.5, 3, 2)
    confusion = np.array([[2, 1], [0, 4]])
    card = ScoreCard("val", "frames", 2, 3, 7, ("a", "b"), (SURE, ALONE), (phase,), confusion)
    content = json.loads(json.dumps(card.to_dict()))
    assert list(content) == [
        "split",
        "unit",
        "num_cases",
        "num_videos",
        "num_units",
        "phases",
        "scores",
        "by_phase",
        "confusion",
    ]
    assert content["scores"] == [
        {
            "name": "macro_f1_present",
            "value": 0.5,
            "convention": "mean F1",
            "low": 0.25,
            "high": 0.75,
        },
        {
            "name": "video_accuracy_std",
            "value": 0.125,
            "convention": "standard deviation",
            "low": None,
            "high": None,
        },
    ]
    assert list(content["scores"][0]) == ["name", "value", "convention", "low", "high"]
    assert content["by_phase"][0]["num_train_cases"] == 2
    assert content["confusion"] == [[2, 1], [0, 4]]


def test_a_score_is_printed_with_its_interval_where_there_is_one():
    assert format_score(SURE) == "0.5000  [0.2500, 0.7500]"
    assert format_score(ALONE) == "0.1250"


def test_the_window_card_counts_all_cases_and_takes_intervals_over_them():
    """Case 1: 2 of 2 windows right; case 2: 1 of 2."""
    by_case = np.array([[[2, 0], [0, 0]], [[0, 0], [1, 1]]])
    card = build_window_card(by_case, ("a", "b"), [5, 6], num_videos=3)
    assert (card.split, card.unit) == ("val", "windows")
    assert (card.num_units, card.num_videos, card.num_cases) == (4, 3, 2)
    scores = {score.name: score for score in card.scores}
    assert scores["window_accuracy"].value == 0.75
    low, high = scores["window_accuracy"].interval
    assert 0 < low < 0.1, "two cases say little"
    assert 0.9 < high < 1
    assert scores["balanced_accuracy"].value == pytest.approx((1 + 0.5) / 2)
    assert [(row.phase, row.recall, row.support) for row in card.by_phase] == [
        ("a", 1, 2),
        ("b", 0.5, 2),
    ]
    alone = build_window_card(by_case[:1], ("a", "b"), [5, 6], num_videos=1)
    assert all(score.interval is None for score in alone.scores)


def test_intervals_hold_their_values_where_single_cases_show_a_phase():
    """Phase 0 in all of six cases, phases 1 to 6 in one case each, phase 7 in none."""
    by_case = np.zeros((6, 8, 8), dtype=np.int64)
    for case, counts in enumerate(by_case):
        counts[0, :2] = 9, 1 + case % 2
        counts[case + 1, case + 1] = 8
    card = build_window_card(by_case, "abcdefgh", [1] * 8, num_videos=6)
    scores = {score.name: score for score in card.scores}
    assert scores["macro_f1_all"].value == pytest.approx(scores["macro_f1_present"].value * 7 / 8)
    for score in card.scores:
        assert score.interval.low <= score.value <= score.interval.high, score


def test_a_frame_without_a_prediction_costs_recall_and_no_precision():
    with_missing = np.array([[3, 0, 1], [0, 4, 0]])
    first, second = score_phases(with_missing, ("a", "b"), [1, 1])
    assert (first.recall, first.precision, first.support) == (0.75, 1, 4)
    assert (second.recall, second.precision) == (1, 1)
