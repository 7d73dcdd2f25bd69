"""Scores per video against a second implementation, written frame by frame from the definition."""

import math

import numpy as np
import pytest

from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.metrics.video_scores import find_right_frames, score_phases_of_video

pytestmark = pytest.mark.unit


def draw_labels(rng, num_frames: int, num_phases: int, mean_frames: float) -> list[int]:
    labels: list[int] = []
    while len(labels) < num_frames:
        labels += [int(rng.integers(num_phases))] * int(rng.geometric(1 / mean_frames))
    return labels[:num_frames]


def is_right_by_hand(truth: list[int], guess: list[int], t: int, tolerance: int) -> bool:
    """Right, or the phase across a true boundary that is at most ``tolerance`` frames away.

    Frame ``boundary`` is the first of the new phase; only boundaries of the frame's own stretch
    count.
    """
    if truth[t] == guess[t]:
        return True
    first, last = t, t
    while first > 0 and truth[first - 1] == truth[t]:
        first -= 1
    while last < len(truth) - 1 and truth[last + 1] == truth[t]:
        last += 1
    is_late = first > 0 and guess[t] == truth[first - 1] and t - first < tolerance
    is_early = last < len(truth) - 1 and guess[t] == truth[last + 1] and last - t < tolerance
    return is_late or is_early


def score_by_hand(truth: list[int], guess: list[int], tolerance: int):
    right = [is_right_by_hand(truth, guess, t, tolerance) for t in range(len(truth))]
    jaccard, precision, recall = [], [], []
    for phase in set(truth):
        union = [t for t in range(len(truth)) if phase in (truth[t], guess[t])]
        hits = sum(right[t] for t in union)
        num_predicted = guess.count(phase)
        jaccard.append(hits / len(union))
        precision.append(min(hits / num_predicted, 1) if num_predicted else math.nan)
        recall.append(min(hits / truth.count(phase), 1))
    known = [p for p in precision if not math.isnan(p)]
    return (
        sum(right) / len(right),
        sum(jaccard) / len(jaccard),
        sum(known) / len(known) if known else 0,
        sum(recall) / len(recall),
    )


@pytest.mark.parametrize("tolerance", [0, 1, 10, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_the_scores_are_those_of_the_definition(seed, tolerance):
    rng = np.random.default_rng(seed)
    truth = draw_labels(rng, 150, 5, mean_frames=20)
    guess = [int(g) for g in np.roll(truth, rng.integers(-12, 12))]
    for t in rng.integers(0, 150, 30):
        guess[t] = int(rng.integers(NO_PREDICTION, 6))
    scores = score_phases_of_video(np.asarray(truth), np.asarray(guess), tolerance)
    assert scores == pytest.approx(score_by_hand(truth, guess, tolerance))


@pytest.mark.parametrize(("gap", "num_late"), [(0, 10), (4, 6), (10, 0), (300, 0)])
def test_time_that_nobody_annotated_counts_in_the_distance_to_the_other_phase(gap, num_late):
    """The model stays in the first phase for ever; the tolerance is 10 frames."""
    labels = np.repeat([0, NOT_ANNOTATED, 1], [50, gap, 50])
    right = find_right_frames(labels, np.zeros_like(labels), tolerance=10)
    assert right[labels == 1].sum() == num_late
    scores = score_phases_of_video(labels, np.zeros_like(labels), tolerance=10)
    assert scores.accuracy == (50 + num_late) / 100


def test_a_phase_that_goes_on_after_a_gap_has_no_boundary_there():
    labels = np.repeat([0, 1, NOT_ANNOTATED, 1], [50, 3, 2, 50])
    late = find_right_frames(labels, np.zeros_like(labels), tolerance=10)
    assert late[50:][labels[50:] == 1].tolist() == [True] * 8 + [False] * 45


@pytest.mark.parametrize("seed", range(8))
def test_tolerance_never_lowers_accuracy_and_all_scores_stay_between_0_and_1(seed):
    rng = np.random.default_rng(seed)
    truth = np.asarray(draw_labels(rng, 200, 4, mean_frames=15))
    guess = np.asarray(draw_labels(rng, 200, 4, mean_frames=5))
    before = score_phases_of_video(truth, guess)
    for tolerance in (1, 5, 20, 400):
        after = score_phases_of_video(truth, guess, tolerance)
        assert after.accuracy >= before.accuracy
        assert all(0 <= score <= 1 for score in after)
        before = after


def test_renaming_the_phases_changes_no_score():
    rng = np.random.default_rng(3)
    truth = np.asarray(draw_labels(rng, 100, 4, mean_frames=10))
    guess = np.asarray(draw_labels(rng, 100, 4, mean_frames=10))
    names = np.asarray([7, 2, 9, 0])
    for tolerance in (0, 10):
        assert score_phases_of_video(names[truth], names[guess], tolerance) == pytest.approx(
            score_phases_of_video(truth, guess, tolerance)
        )


def test_a_phase_that_the_truth_does_not_show_is_no_term_of_the_mean():
    truth, guess = np.asarray([0, 0, 1, 1]), np.asarray([0, 3, 1, 1])
    assert score_phases_of_video(truth, guess) == (0.75, 0.75, 1.0, 0.75)


def test_a_phase_that_is_never_predicted_has_no_precision():
    truth, guess = np.asarray([0, 0, 1, 1]), np.asarray([0, 0, 0, 0])
    assert score_phases_of_video(truth, guess) == (0.5, 0.25, 0.5, 0.5)
    nothing = np.full(4, NO_PREDICTION)
    assert score_phases_of_video(truth, nothing) == (0, 0, 0, 0)


def test_only_the_phase_across_the_boundary_is_tolerated():
    truth = np.asarray([0, 0, 0, 1, 1, 1, 2, 2, 2])
    guess = np.asarray([2, 0, 1, 0, 2, 2, 2, 0, 1])
    right = find_right_frames(truth, guess, tolerance=2)
    assert right.tolist() == [False, True, True, True, True, True, True, False, False]
