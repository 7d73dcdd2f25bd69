"""Greedy selection on simulated predictions: what it finds, and what it claims of noise."""

import tracemalloc

import numpy as np
import pytest

from ophnet_ray.inference.greedy_selection import CandidateVideo, label_mean, select_members
from ophnet_ray.metrics.timelines import NOT_ANNOTATED

pytestmark = pytest.mark.unit


def simulate(rng, num_cases, skills, num_frames=30, num_phases=3):
    """Candidates whose log-odds of the true phase are their skill, plus noise of their own."""
    videos = []
    for case in range(num_cases):
        truth = rng.integers(0, num_phases, num_frames)
        logits = rng.normal(size=(len(skills), num_frames, num_phases))
        logits[:, np.arange(num_frames), truth] += np.asarray(skills)[:, None]
        shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        videos.append(CandidateVideo(f"case{case}", truth, shares.astype(np.float32)))
    return videos


def test_noise_is_left_out_and_what_knows_something_stays():
    found = select_members(simulate(np.random.default_rng(0), 12, [1.5, 0.0, 0.0, 1.5, 0.0]))
    assert found.gain.interval.low > 0
    assert found.kept_times == found.times
    assert sum(found.times[i] for i in (0, 3)) > 2 * sum(found.times[i] for i in (1, 2, 4))
    assert found.score > max(found.candidate_scores)


def test_where_labels_are_noise_the_selection_gains_nothing_on_cases_that_did_not_choose():
    """On the cases that chose it, it seems to."""
    rng = np.random.default_rng(0)
    gains, seeming = [], []
    for _ in range(5):
        videos = simulate(rng, 8, [0.0] * 4, num_frames=15)
        found = select_members(videos)
        gains.append(found.score - 1 / 3)
        hits = [label_mean(video, found.times) == video.truth for video in videos]
        seeming.append(np.mean(hits) - 1 / 3)
    error = np.std(gains) / np.sqrt(len(gains))
    # macro-F1 and the Jaccard index of chance lie below accuracy
    assert np.mean(gains) < 2 * error
    assert np.mean(seeming) > 0.03


def test_equal_candidates_stay_a_plain_mean():
    videos = simulate(np.random.default_rng(1), 6, [1.0])
    same = [
        CandidateVideo(each.case_id, each.truth, each.probabilities.repeat(3, 0)) for each in videos
    ]
    found = select_members(same)
    assert found.gain.value == 0
    assert found.times == (1, 0, 0)
    assert found.kept_times == (1, 1, 1)


def test_a_gain_that_may_be_0_keeps_the_plain_mean():
    found = select_members(simulate(np.random.default_rng(4), 5, [1.0, 0.8, 0.5], num_frames=20))
    assert found.gain.interval.low <= 0 < found.gain.value
    assert found.kept_times == (1, 1, 1)


def test_memory_does_not_grow_with_the_means_that_are_tried():
    """All means that are tried hold some 280 times the counts of one; the rest is the bootstrap."""
    videos = simulate(np.random.default_rng(0), 10, [1.0] * 6, num_frames=4, num_phases=60)
    one_mean = 10 * (3 * 60 + 2) * 8
    tracemalloc.start()
    select_members(videos)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{peak / one_mean:.0f} times the counts of a mean")
    assert peak < 550 * one_mean


def test_too_few_cases_choose_nothing():
    assert select_members(simulate(np.random.default_rng(0), 2, [1.0, 1.0])) is None


def test_times_without_a_prediction_take_that_of_the_others():
    probabilities = np.full((2, 3, 2), np.nan, dtype=np.float32)
    probabilities[0, :2] = [[0.9, 0.1], [0.4, 0.6]]
    probabilities[1, 0] = [0.2, 0.8]
    video = CandidateVideo("a", np.full(3, NOT_ANNOTATED), probabilities)
    assert label_mean(video, (1, 1)).tolist() == [0, 1, -1]
    assert label_mean(video, (0, 3)).tolist() == [1, -1, -1]
