"""Frame scores of a split, worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.scoring import (
    CONVENTIONS,
    CaseScores,
    ScoredVideo,
    build_score_card,
    compare_scores,
)
from ophnet_ray.metrics.timelines import NOT_ANNOTATED

pytestmark = pytest.mark.unit

PHASES = ("a", "b", "c")


def video(case_id, truth, prediction) -> ScoredVideo:
    """A video whose predicted labels have a probability of 0.8."""
    labels = np.asarray(prediction)
    probabilities = np.full((len(labels), len(PHASES)), 0.1, dtype=np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.8
    probabilities[labels == NO_PREDICTION] = np.nan
    return ScoredVideo(case_id, np.asarray(truth), labels, probabilities)


def test_a_long_video_counts_as_much_as_a_short_one():
    """The accuracy per video of APTOS: 1 of 1 and 1 of 3 are right."""
    scores = CaseScores([video("x", [0], [0]), video("y", [0, 0, 0], [0, 1, 1])], 3)
    assert scores.values["video_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores.values["video_accuracy_std"] == pytest.approx(1 / 3)
    assert scores.values["frame_accuracy"] == 0.5


def test_frames_between_segments_are_not_scored():
    scores = CaseScores([video("x", [0, NOT_ANNOTATED, NOT_ANNOTATED, 1], [0, 2, 1, 1])], 3)
    assert scores.counts.confusion.sum() == 2
    assert scores.values["frame_accuracy"] == 1
    assert scores.values["segmental_edit"] == 1


def test_a_frame_without_a_prediction_is_wrong_in_every_score_but_the_calibration():
    scores = CaseScores([video("x", [0, 0, 1, 1], [0, NO_PREDICTION, 1, 1])], 3)
    assert scores.values["frame_accuracy"] == 0.75
    assert scores.values["top_3_accuracy"] == 0.75
    assert scores.counts.calibration[:, 0].sum() == 3
    assert scores.values["expected_calibration_error"] == pytest.approx(0.2)


def test_videos_without_an_annotated_frame_are_not_counted():
    unknown = video("z", [NOT_ANNOTATED] * 4, [0, 0, 1, 1])
    scores = CaseScores([video("x", [0, 1], [0, 1]), unknown], 3)
    assert (scores.num_videos, scores.num_cases) == (1, 1)


def test_the_videos_of_a_case_are_resampled_together():
    """Two cases, one of them right: a resample scores 0, a half or 1, whatever the videos."""
    videos = [video("x", [0, 0], [0, 0])] * 3 + [video("y", [0, 0], [1, 1])] * 3
    scores = CaseScores(videos, 3)
    column = list(CONVENTIONS).index("frame_accuracy")
    assert set(scores.resampled[:, column]) == {0.0, 0.5, 1.0}
    assert scores.num_cases == 2


def test_the_card_has_one_row_per_phase_and_intervals_over_cases():
    videos = [video("x", [0, 0, 1], [0, 0, 0]), video("y", [0, 1, 1], [0, 1, 1])]
    card = build_score_card(CaseScores(videos, 3), "test", PHASES, [7, 8, 9])
    assert (card.split, card.unit) == ("test", "frames")
    assert (card.num_units, card.num_videos, card.num_cases) == (6, 2, 2)
    assert [score.name for score in card.scores] == list(CONVENTIONS)
    assert all(score.convention == CONVENTIONS[score.name] for score in card.scores)
    accuracy = card.scores[0]
    assert accuracy.value == pytest.approx(5 / 6)
    low, high = accuracy.interval
    assert 0 < low < 2 / 3 < 5 / 6 < high < 1
    assert [(row.phase, row.support, row.num_train_cases) for row in card.by_phase] == [
        ("a", 3, 7),
        ("b", 3, 8),
        ("c", 0, 9),
    ]
    assert [row.recall for row in card.by_phase] == pytest.approx([1, 2 / 3, 0])
    assert [row.precision for row in card.by_phase] == pytest.approx([3 / 4, 1, 0])


def videos_with_rare_phases(num_cases, seed=0):
    """One video per case: 12 phases in all of them, 16 phases in one case each; 80 % are right."""
    rng = np.random.default_rng(seed)
    rare_of = rng.integers(0, num_cases, size=16)
    videos = []
    for case in range(num_cases):
        phases = [*range(12), *(12 + np.flatnonzero(rare_of == case))]
        truth = np.repeat(phases, rng.integers(5, 20, len(phases)))
        wrong = rng.choice(phases, len(truth))
        prediction = np.where(rng.random(len(truth)) < 0.8, truth, wrong)
        prediction[:2] = 29 + case % 2  # phases without a label: one is predicted in few cases
        probabilities = np.full((len(truth), 32), 0.01, dtype=np.float32)
        probabilities[np.arange(len(truth)), prediction] = rng.uniform(0.3, 1, len(truth))
        videos.append(ScoredVideo(f"case {case}", truth, prediction, probabilities))
    return videos


@pytest.mark.parametrize("num_cases", [3, 5, 10, 40])
def test_every_interval_holds_its_value(num_cases):
    """A resample lacks a third of the phases that a single case shows; they must not count 0."""
    scores = CaseScores(videos_with_rare_phases(num_cases), 32)
    phases = [str(i) for i in range(32)]
    card = build_score_card(scores, "val", phases, [1] * 32)
    left_out = [
        f"{score.name} {score.value:.3f} [{score.interval.low:.3f}, {score.interval.high:.3f}]"
        for score in card.scores
        if score.interval and not score.interval.low <= score.value <= score.interval.high
    ]
    assert left_out == []


def test_scores_without_a_spread_over_cases_have_no_interval():
    one = build_score_card(CaseScores([video("x", [0, 1], [0, 1])], 3), "val", PHASES, [1, 1, 1])
    assert all(score.interval is None for score in one.scores)
    videos = [video("x", [0, 1], [0, 1]), video("y", [0, 1], [0, 0])]
    two = build_score_card(CaseScores(videos, 3), "val", PHASES, [1, 1, 1])
    without = [score.name for score in two.scores if score.interval is None]
    assert [name for name in without if not name.endswith("_std")] == [
        "aptos_rank_score_ceiling",
        "segments_ratio",
    ]
    assert {"video_accuracy_std", "video_jaccard_std"} < set(without)


def test_scores_per_video_are_averaged_over_videos_with_their_deviation():
    videos = [video("x", [0, 0, 1, 1], [0, 0, 0, 0]), video("y", [2, 2], [2, 2])]
    values = CaseScores(videos, 3).values
    assert values["video_jaccard"] == pytest.approx((0.25 + 1) / 2)
    assert values["video_jaccard_std"] == pytest.approx(0.375)
    assert values["video_precision"] == pytest.approx((0.5 + 1) / 2)
    assert values["video_recall"] == pytest.approx((0.5 + 1) / 2)
    assert values["segments_ratio"] == pytest.approx(2 / 3)


def test_the_relaxed_scores_tolerate_ten_seconds_at_every_frame_rate():
    truth, late = np.repeat([0, 1], 40), np.repeat([0, 1], [50, 30])
    for rate in (0.5, 1, 2):
        scored = replace(video("x", truth, late), frame_rate=rate)
        values = CaseScores([scored], 3).values
        forgiven = min(10 * rate, 10)
        assert values["relaxed_10s_accuracy"] == pytest.approx((70 + forgiven) / 80)
        assert values["video_accuracy"] == pytest.approx(70 / 80)


def test_a_gain_is_paired_case_by_case():
    """Each of two unlike cases gains one frame of four: the gain has no spread."""
    truth = [0, 0, 0, 0]
    before = [video("x", truth, [0, 0, 0, 1]), video("y", truth, [1, 1, 1, 1])]
    after = [video("x", truth, [0, 0, 0, 0]), video("y", truth, [0, 1, 1, 1])]
    gains = compare_scores(CaseScores(before, 3), CaseScores(after, 3), ["frame_accuracy"])
    assert gains["frame_accuracy"].value == 0.25
    assert gains["frame_accuracy"].interval == (0.25, 0.25)
    alone = compare_scores(CaseScores(before[:1], 3), CaseScores(after[:1], 3), ["frame_accuracy"])
    assert alone["frame_accuracy"].interval is None
