"""Scores of probabilities against their definitions, and bins of a reliability diagram."""

import numpy as np
import pytest

from ophnet_ray.metrics.calibration import ProbabilityScores
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo

pytestmark = pytest.mark.unit


def draw_split(num_cases=6, num_frames=300, seed=0):
    """Cases whose confidences say more than their accuracies; two cases have two videos."""
    rng = np.random.default_rng(seed)
    for number in range(num_cases + 2):
        truth = rng.integers(0, 4, num_frames)
        probabilities = rng.dirichlet(np.full(4, 0.3), num_frames).astype(np.float32)
        is_known = rng.random(num_frames) < 0.5
        best = probabilities.argmax(axis=1)
        truth = np.where(is_known, best, truth)
        truth[:10] = -1
        probabilities[10:20] = np.nan
        yield ScoredVideo(f"case {number % num_cases}", truth, best, probabilities)


def values_of(scores):
    return {score.name: score.value for score in scores.list_scores()}


def test_scores_are_those_of_their_definitions():
    videos = list(draw_split())
    parts = [(v.truth[20:], v.probabilities[20:].astype(float)) for v in videos]
    truth, probabilities = (np.concatenate(each) for each in zip(*parts, strict=True))
    one_hot = np.eye(4)[truth]
    found = values_of(ProbabilityScores(videos))
    assert found["brier_score"] == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean())
    loss = -np.log(probabilities[one_hot.astype(bool)].clip(1e-12)).mean()
    assert found["negative_log_likelihood"] == pytest.approx(loss)
    card = CaseScores(videos, 4).values["expected_calibration_error"]
    assert found["expected_calibration_error"] == pytest.approx(card, abs=1e-7)


def test_a_guess_and_a_certainty_score_what_they_must():
    truth = np.arange(4)
    guess = ScoredVideo("a", truth, truth, np.full((4, 4), 0.25, dtype=np.float32))
    found = values_of(ProbabilityScores([guess]))
    assert found["brier_score"] == pytest.approx(0.75)
    assert found["negative_log_likelihood"] == pytest.approx(np.log(4))
    assert found["expected_calibration_error"] == pytest.approx(0.0)
    sure = ScoredVideo("a", truth, truth, np.eye(4, dtype=np.float32))
    assert set(values_of(ProbabilityScores([sure])).values()) == {0.0}
    wrong = ScoredVideo("a", truth, truth, np.roll(np.eye(4, dtype=np.float32), 1, axis=1))
    assert values_of(ProbabilityScores([wrong]))["brier_score"] == pytest.approx(2.0)
    (score, *_) = ProbabilityScores([sure]).list_scores()
    assert score.interval is None, "a single case"


def test_bins_hold_as_many_frames_each_and_intervals_hold_their_score():
    scores = ProbabilityScores(draw_split())
    counts = [each.num_frames for each in scores.bins]
    assert sum(counts) == 8 * 280
    assert max(counts) - min(counts) <= 1
    edges = [(each.low, each.high) for each in scores.bins]
    assert edges == sorted(edges)
    assert {each.num_cases for each in scores.bins} == {6}
    for each in scores.bins:
        assert each.low <= each.confidence <= each.high
        assert each.interval.low <= each.accuracy <= each.interval.high
    for score in scores.list_scores():
        assert score.interval.low < score.value < score.interval.high


def test_equal_confidences_share_a_bin_and_no_frame_has_no_score():
    truth = np.zeros(50, dtype=np.int64)
    sure = np.tile(np.asarray([[1, 0]], dtype=np.float32), (50, 1))
    (only,) = ProbabilityScores([ScoredVideo("a", truth, truth, sure)]).bins
    assert (only.num_frames, only.interval) == (50, None)
    nothing = ProbabilityScores([ScoredVideo("a", truth - 1, truth, sure)])
    assert (nothing.list_scores(), nothing.bins) == ((), ())


def test_a_gain_is_paired_over_the_same_cases():
    before, after = ProbabilityScores(draw_split()), ProbabilityScores(draw_split())
    assert {gain.value for gain in after.gain_over(before).values()} == {0.0}
    with pytest.raises(ValueError, match="different cases"):
        ProbabilityScores(draw_split(5)).gain_over(before)
