"""Decoding over time: the best of all segmentations, at any frame rate, and causal if asked."""

import itertools

import numpy as np
import pytest

from ophnet_ray.inference.decoder_tuning import decode_with_each, list_candidates
from ophnet_ray.inference.decoding import decode
from ophnet_ray.models.decoder import Decoder
from ophnet_ray.models.dynamics import learn_dynamics
from tests.helpers.segments import LABELS, make_segments

pytestmark = pytest.mark.unit

# every phase lasts 3 s in its shortest and 4 s in its mean visit
DYNAMICS = learn_dynamics(
    make_segments(*[(phase, length, 0) for length in (3, 3, 3, 7) for phase in "abc"], ("a", 4, 0)),
    LABELS,
)
SHORTEST_S = 3


def draw_log_probs(num_times: int, seed: int) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.full(3, 0.4), size=num_times) + 1e-3)


def score_path(path, log_probs, decoder: Decoder, frame_rate: float) -> float:
    """The sum that the module's docstring defines; -inf for a segment that is too short."""
    change, dwell_s = DYNAMICS.change_matrix(), DYNAMICS.mean_dwell_s()
    prior = DYNAMICS.prior(decoder.prior)
    segments = [(label, len(list(group))) for label, group in itertools.groupby(path)]
    if any(length < SHORTEST_S * frame_rate for _, length in segments[1:-1]):
        return -np.inf
    evidence = sum(log_probs[t, label] - np.log(prior[label]) for t, label in enumerate(path))
    score = np.log(DYNAMICS.start_matrix()[path[0]])
    score += decoder.evidence_scale / frame_rate * evidence
    score -= sum(length / frame_rate / dwell_s[label] for label, length in segments)
    for (before, _), (after, _) in itertools.pairwise(segments):
        score += np.log(change[before, after] / dwell_s[before])
    return score


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prior", ["none", "segments", "frames"])
@pytest.mark.parametrize("frame_rate", [1, 0.5])
def test_the_labels_are_the_best_of_all_segmentations(seed, prior, frame_rate):
    decoder = Decoder(method="viterbi", prior=prior, evidence_scale=0.9, min_duration=0.05)
    log_probs = draw_log_probs(7, seed)
    paths = itertools.product(range(3), repeat=7)
    best = max(paths, key=lambda path: score_path(path, log_probs, decoder, frame_rate))
    found = decode(log_probs, decoder, DYNAMICS, frame_rate)
    assert score_path(found, log_probs, decoder, frame_rate) == pytest.approx(
        score_path(best, log_probs, decoder, frame_rate)
    )


@pytest.mark.parametrize("min_duration", [0, 0.05])
@pytest.mark.parametrize("evidence_scale", [1, 0.3, 0.1])
def test_the_same_evidence_at_another_frame_rate_gives_the_same_segments(
    min_duration, evidence_scale
):
    decoder = Decoder(
        method="viterbi", evidence_scale=evidence_scale, min_duration=min_duration, prior="frames"
    )
    for seed in range(5):
        log_probs = draw_log_probs(200, seed)
        slow = decode(log_probs, decoder, DYNAMICS, 1.0)
        fast = decode(np.repeat(log_probs, 4, axis=0), decoder, DYNAMICS, 4.0)
        assert len(np.unique(slow)) > 1
        assert fast.tolist() == np.repeat(slow, 4).tolist()


def decode_each(probabilities, look_ahead_s, frame_rate=2.0):
    candidates = list_candidates(DYNAMICS)
    labels = decode_with_each(probabilities, candidates, DYNAMICS, frame_rate, look_ahead_s)
    return zip(candidates, labels, strict=True)


@pytest.mark.parametrize("look_ahead_s", [0, 0.3, 0.5, 0.9, 5])
def test_what_comes_after_the_look_ahead_changes_no_label_of_any_decoder(look_ahead_s):
    one, other = (np.exp(draw_log_probs(80, seed)).astype(np.float32) for seed in (0, 1))
    for changed_from in (1, 23, 79):
        changed = one.copy()
        changed[changed_from:] = other[changed_from:]
        settled = max(changed_from - int(look_ahead_s * 2.0), 0)
        pairs = zip(decode_each(one, look_ahead_s), decode_each(changed, look_ahead_s), strict=True)
        for (candidate, before), (_, after) in pairs:
            assert before[:settled].tolist() == after[:settled].tolist(), str(candidate)


@pytest.mark.parametrize("min_duration", [0, 0.25])
@pytest.mark.parametrize("frame_rate", [1.0, 3.0])
def test_a_causal_label_is_the_last_one_of_the_best_path_so_far(min_duration, frame_rate):
    decoder = Decoder(method="viterbi", evidence_scale=0.4, min_duration=min_duration)
    for seed in range(4):
        log_probs = draw_log_probs(60, seed)
        live = decode(log_probs, decoder, DYNAMICS, frame_rate, look_ahead_s=0)
        so_far = [decode(log_probs[:n], decoder, DYNAMICS, frame_rate)[-1] for n in range(1, 61)]
        assert live.tolist() == so_far


def test_a_look_ahead_over_the_whole_video_is_the_decoding_of_the_whole_video():
    probabilities = np.exp(draw_log_probs(60, 2)).astype(np.float32)
    whole, ahead = decode_each(probabilities, None), decode_each(probabilities, 100.0)
    for (candidate, labels), (_, seen) in zip(whole, ahead, strict=True):
        if candidate.smooth != "viterbi":  # seen from ahead it is the most probable phase
            assert labels.tolist() == seen.tolist(), str(candidate)


def test_a_time_without_a_prediction_takes_its_label_from_its_neighbours():
    log_probs = np.log(np.full((30, 3), 0.1))
    log_probs[:, 1] = np.log(0.8)
    log_probs[[0, 12, 29]] = np.nan
    for method in ("viterbi", "median"):
        labels = decode(log_probs, Decoder(method=method), DYNAMICS, 1.0)
        assert labels[1:].tolist() == [1] * 29


def test_a_start_without_predictions_takes_the_first_one_if_the_whole_video_is_in_sight():
    log_probs = np.log(np.full((30, 3), 0.1))
    log_probs[:, 2] = np.log(0.8)
    log_probs[:4] = np.nan
    for method in ("none", "median"):
        decoder = Decoder(method=method, prior="frames")
        assert decode(log_probs, decoder, DYNAMICS, 1.0).tolist() == [2] * 30
        assert decode(log_probs, decoder, DYNAMICS, 1.0, look_ahead_s=2.0)[5:].tolist() == [2] * 25


def test_a_segment_lasts_its_minimum_except_at_the_ends_of_the_video():
    log_probs = np.log(np.full((24, 3), 0.01))
    labels = np.repeat([2, 0, 1, 0, 1], [1, 10, 2, 10, 1])
    log_probs[np.arange(24), labels] = np.log(0.98)
    decoder = Decoder(method="viterbi", min_duration=0.05)
    assert decode(log_probs, decoder, DYNAMICS, 1.0).tolist() == [2, *[0] * 22, 1]
    free = Decoder(method="viterbi")
    assert decode(log_probs, free, DYNAMICS, 1.0).tolist() == labels.tolist()


def test_settings_are_read_back_and_unknown_ones_refused():
    decoder = Decoder(method="viterbi", prior="frames", evidence_scale=0.1, min_duration=0.1)
    assert Decoder.from_dict(decoder.to_dict() | {"of_a_later_version": 1}) == decoder
    for wrong in ({"method": "x"}, {"prior": "x"}, {"evidence_scale": 0}, {"min_duration": 0.33}):
        with pytest.raises(ValueError, match="unknown to this version"):
            Decoder.from_dict(decoder.to_dict() | wrong)


def test_a_model_of_segments_is_corrected_for_the_share_of_time():
    """Phase a lasts nine times as long as b: where a model of segments is undecided, it is a."""
    dynamics = learn_dynamics(make_segments(*[("a", 90, 0), ("b", 10, 0)] * 4), {"a": 0, "b": 1})
    log_probs = np.log(np.asarray([[0.48, 0.52], [0.05, 0.95]]))
    plain = decode(log_probs, Decoder(), dynamics, 1.0)
    corrected = decode(log_probs, Decoder(prior="segments"), dynamics, 1.0)
    assert (plain.tolist(), corrected.tolist()) == ([1, 1], [0, 1])
