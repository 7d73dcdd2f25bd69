"""The choice of a decoder by case: it gains where errors flicker, else smoothing stays off."""

from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.inference.decoder_tuning import (
    NO_SMOOTHING,
    Candidate,
    choose_candidate,
    tune_decoder,
)
from ophnet_ray.metrics.scoring import ScoredVideo
from ophnet_ray.models.dynamics import learn_dynamics
from tests.helpers.segments import LABELS, make_segments

pytestmark = pytest.mark.unit

LENGTHS_S = (40, 60, 50)
DYNAMICS = learn_dynamics(
    make_segments(*[(p, length, 0) for p, length in zip("abc", LENGTHS_S, strict=True)] * 2), LABELS
)


def draw_video(case_id: str, rng: np.random.Generator, accuracy: float, burst_s: int = 1):
    """A video of phases a, b, c; errors come in bursts, and the model is always sure."""
    truth = np.repeat([0, 1, 2], LENGTHS_S)
    num_bursts = -(-len(truth) // burst_s)
    is_wrong = np.repeat(rng.random(num_bursts) > accuracy, burst_s)[: len(truth)]
    shift = np.repeat(rng.integers(1, 3, num_bursts), burst_s)[: len(truth)]
    seen = np.where(is_wrong, (truth + shift) % 3, truth)
    probabilities = np.full((len(truth), 3), 0.02, dtype=np.float32)
    probabilities[np.arange(len(truth)), seen] = 0.96
    return ScoredVideo(case_id, truth, seen, probabilities)


def draw_split(num_cases: int, seed: int = 0, **errors):
    rng = np.random.default_rng(seed)
    return [draw_video(f"case {i}", rng, **errors) for i in range(num_cases)]


def test_where_errors_come_in_bursts_a_path_is_chosen_and_its_gain_is_shown():
    tuned = tune_decoder(draw_split(8, accuracy=0.8, burst_s=6), DYNAMICS, 1.0)
    assert tuned.kept == tuned.best
    assert tuned.best.decoder.method == "viterbi"
    assert tuned.gain.value > 0.1
    assert "cases that did not choose" in str(tuned)


def test_a_decoder_that_gains_in_a_single_case_is_not_kept():
    split = [*draw_split(1, accuracy=0.6, burst_s=3), *draw_split(4, accuracy=1.0)]
    named = [replace(video, case_id=str(i)) for i, video in enumerate(split)]
    tuned = tune_decoder(named, DYNAMICS, 1.0)
    assert tuned.best != NO_SMOOTHING
    assert tuned.gain.interval.low <= 0
    assert tuned.kept == NO_SMOOTHING


def test_cases_without_annotated_frames_make_no_choice_surer():
    split = draw_split(4, accuracy=0.8, burst_s=6)
    empty = [
        replace(video, case_id=f"empty {i}", truth=np.full(150, -1))
        for i in range(20)
        for video in split[:1]
    ]
    alone, among = (tune_decoder(videos, DYNAMICS, 1.0) for videos in (split, [*split, *empty]))
    assert alone == among


def test_nothing_is_smoothed_where_nothing_can_be_gained():
    tuned = tune_decoder(draw_split(8, accuracy=1.0), DYNAMICS, 1.0)
    assert tuned.best == tuned.kept == NO_SMOOTHING


def test_too_few_cases_cannot_show_a_gain():
    tuned = tune_decoder(draw_split(2, accuracy=0.8), DYNAMICS, 1.0)
    assert tuned.best != NO_SMOOTHING
    assert tuned.gain is None
    assert tuned.kept == NO_SMOOTHING
    assert "3 cases are needed" in str(tuned)


def test_without_the_order_of_phases_and_without_predictions_nothing_is_chosen():
    videos = draw_split(3, accuracy=0.8)
    assert tune_decoder(videos, None, 1.0).kept == NO_SMOOTHING
    for video in videos:
        video.probabilities[:] = np.nan
    assert tune_decoder(videos, DYNAMICS, 1.0).kept == NO_SMOOTHING


def count_phases(long: int, short: int) -> np.ndarray:
    """Hits, labels and predictions of one video: two phases of 200 s, and one of 10 s between."""
    hits, labels = np.asarray([long, short, long]), np.asarray([200, 10, 200])
    missed = labels - hits
    mistaken = np.asarray([missed[2] + missed[1], 0, missed[0]])
    return np.stack([hits, labels, hits + mistaken])


def test_a_smoothing_that_erases_a_short_phase_from_some_videos_is_not_chosen():
    """It is right in more frames; what it loses is a whole phase in each of two videos."""
    plain, careful = [count_phases(170, 8)] * 8, [count_phases(191, 10)] * 8
    erasing = [*[count_phases(200, 10)] * 6, *[count_phases(200, 0)] * 2]
    by_case = {
        str(case): [np.stack(counts)]
        for case, counts in enumerate(zip(plain, erasing, careful, strict=True))
    }
    candidates = [NO_SMOOTHING, Candidate("median"), Candidate("viterbi")]
    assert choose_candidate(candidates, by_case).kept == Candidate("viterbi")


def test_the_choice_is_made_with_the_look_ahead_that_it_is_for():
    split = draw_split(8, accuracy=0.8, burst_s=6)
    gains = [tune_decoder(split, DYNAMICS, 1.0, look_ahead_s).gain for look_ahead_s in (0, 20)]
    assert gains[1].value > gains[0].value + 0.02
