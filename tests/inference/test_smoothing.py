"""Smoothing over time: flicker goes, causal decisions stand, Viterbi finds the best path."""

import itertools

import numpy as np
import pytest

from ophnet_ray.inference.smoothing import smooth_labels
from ophnet_ray.models.dynamics import learn_dynamics
from tests.helpers.segments import LABELS, make_segments

pytestmark = pytest.mark.unit


def flickering(seed=0, num_frames=120):
    """Truth a, b, c of 40 frames; the classifier is right in 70 %, and sure of it."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], num_frames // 3)
    seen = np.where(rng.random(num_frames) < 0.7, truth, rng.integers(0, 3, num_frames))
    probabilities = np.full((num_frames, 3), 0.1, dtype=np.float32)
    probabilities[np.arange(num_frames), seen] = 0.8
    return truth, probabilities


DYNAMICS = learn_dynamics(make_segments(("a", 40, 0), ("b", 40, 0), ("c", 40, 0)), LABELS)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("smooth", ["median", "viterbi"])
def test_flicker_goes_and_the_order_stays(smooth, causal):
    truth, probabilities = flickering()
    probabilities[60] = np.nan
    raw = (np.nan_to_num(probabilities).argmax(axis=1) == truth).mean()
    smoothed = smooth_labels(
        probabilities, smooth, DYNAMICS, 1.0, look_ahead_s=0 if causal else None
    )
    assert (smoothed == truth).mean() > raw + (0.05 if causal else 0.15)
    assert smoothed[60] == 1


@pytest.mark.parametrize("smooth", ["median", "viterbi"])
def test_a_causal_decision_does_not_change_with_the_future(smooth):
    _, probabilities = flickering()
    whole = smooth_labels(probabilities, smooth, DYNAMICS, 1.0, look_ahead_s=0)
    for stop in (1, 17, 60):
        part = smooth_labels(probabilities[:stop], smooth, DYNAMICS, 1.0, look_ahead_s=0)
        assert part.tolist() == whole[:stop].tolist()


def test_viterbi_finds_the_best_of_all_paths():
    rng = np.random.default_rng(4)
    probabilities = rng.dirichlet(np.ones(3), size=6).astype(np.float32)
    start, matrix = DYNAMICS.start_matrix(), DYNAMICS.transition_matrix(0.1)

    def score(path):
        steps = [matrix[i, j] for i, j in itertools.pairwise(path)]
        return start[path[0]] * np.prod(steps) * np.prod(probabilities[range(6), path])

    best = max(itertools.product(range(3), repeat=6), key=score)
    assert smooth_labels(probabilities, "viterbi", DYNAMICS, 0.1).tolist() == list(best)
