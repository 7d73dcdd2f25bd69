"""Whole videos: which frames make a window, what lasts how long, and files that come back."""

import itertools

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.video.decoder import VideoError
from ophnet_ray.data.video.index import VideoIndex
from ophnet_ray.errors import UserError
from ophnet_ray.inference.prediction_folder import find_videos
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
    write_predictions,
)
from ophnet_ray.inference.predictor import frame_times, plan_window, stream_windows
from ophnet_ray.inference.smoothing import smooth_labels
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(window_size=8, stride=4, max_frames=8, image_size=32)


def test_every_frame_time_up_to_the_last_frame_has_one_window_in_order(tmp_path):
    """Frame k is grey 2k at 10 frames/s: a centred window of 8 has the mean 2(10 t - 0.5)."""
    video = write_video(tmp_path / "v.mp4", grey_frames(95), frame_rate=10)
    windows = list(stream_windows(str(video), 1.0, WINDOWS))
    assert [window.index for window in windows] == list(range(10))
    means = [window.image.mean() for window in windows]
    expected = [2 * 3.5, *(2 * (10 * t - 0.5) for t in range(1, 9)), 2 * (95 - 4.5)]
    np.testing.assert_allclose(means, expected, atol=3)


def test_a_causal_window_uses_nothing_after_its_time(tmp_path):
    video = write_video(tmp_path / "v.mp4", grey_frames(45), frame_rate=10)
    later_white = itertools.chain(
        itertools.islice(grey_frames(45), 31), itertools.repeat(np.full((32, 32, 3), 255, "u1"), 14)
    )
    other = write_video(tmp_path / "w.mp4", later_white, frame_rate=10, tune="zerolatency")
    means, others = (
        [w.image.mean() for w in stream_windows(str(path), 1.0, WINDOWS, causal=True)]
        for path in (video, other)
    )
    np.testing.assert_allclose(means, [0, *(2 * (10 * t - 3.5) for t in (1, 2, 3, 4))], atol=3)
    np.testing.assert_allclose(others[:4], means[:4], atol=3)


@pytest.mark.parametrize(
    ("last_s", "frame_rate", "num_times"),
    [
        pytest.param(9.4, 1, 10, id="the last frame lies between two times"),
        pytest.param(9.9999999, 1, 11, id="rounded times"),
        pytest.param(0.0, 1, 1, id="a single frame"),
        pytest.param(2.0, 30, 61, id="more than one a second"),
        pytest.param(9.4, 0.1, 1, id="fewer than one a second"),
    ],
)
def test_frame_times_go_up_to_the_last_frame(last_s, frame_rate, num_times):
    times_s = frame_times(last_s, frame_rate)
    assert len(times_s) == num_times
    np.testing.assert_allclose(np.diff(times_s), 1 / frame_rate)


def test_a_video_shorter_than_a_window_is_one_window_of_what_it_has():
    index = VideoIndex(np.arange(5) / 10, np.arange(5))
    assert plan_window(index, 0.2, 8, causal=False) == range(5)
    assert plan_window(index, 0.2, 8, causal=True) == range(3)


def test_a_broken_video_is_an_error_and_a_damaged_stretch_costs_its_own_windows(
    tmp_path,
):
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        list(stream_windows(str(tmp_path / "no.mp4"), 1.0, WINDOWS))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", noise, frame_rate=10, gop=10)
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = rng.bytes(4000)
    video.write_bytes(content)
    windows = list(stream_windows(str(video), 1.0, WINDOWS))
    assert len(windows) == 10
    damaged = [window for window in windows if window.image is None]
    assert 1 <= len(damaged) <= 4
    assert "damaged" in damaged[0].reason


def rows_of(*phases_and_lengths):
    start = 0.0
    for phase, length, gap in phases_and_lengths:
        yield Segment(f"{start}", "c", "v.mp4", start, start + length, phase)
        start += length + gap


LABELS = {"a": 0, "b": 1, "c": 2}


def test_order_and_length_of_phases_are_counted_whatever_lies_between():
    segments = [*rows_of(("a", 10, 0), ("b", 4, 5), ("b", 2, 0), ("a", 20, 0))]
    dynamics = learn_dynamics(reversed(segments), LABELS)
    assert dynamics.first.tolist() == [1, 0, 0]
    assert dynamics.changes.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert dynamics.dwell_s.tolist() == [15, 6, 0]  # two stretches of b are one visit
    assert dynamics.median_dwell_s == 10
    assert PhaseDynamics.from_dict(dynamics.to_dict()).dwell_s.tolist() == [15, 6, 0]
    clips = [Segment("x", "c", "x.mp4", 0.0, np.inf, "a")]
    assert learn_dynamics(clips, LABELS) is None


@pytest.mark.parametrize("frame_rate", [0.5, 1, 5])
def test_the_chain_stays_as_long_as_phases_last_at_every_frame_rate(frame_rate):
    dynamics = learn_dynamics(rows_of(("a", 30, 0), ("b", 8, 0), ("c", 5, 0)), LABELS)
    matrix = dynamics.transition_matrix(frame_rate)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    mean_dwell_s = 1 / (1 - np.diagonal(matrix)) / frame_rate
    np.testing.assert_allclose(mean_dwell_s, [30, 8, 5], rtol=0.01)
    assert matrix[0, 1] > matrix[0, 2] > 0  # seen, and never seen


def flickering(seed=0, num_frames=120):
    """Truth a, b, c of 40 frames; the classifier is right in 70 %, and sure of it."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], num_frames // 3)
    seen = np.where(rng.random(num_frames) < 0.7, truth, rng.integers(0, 3, num_frames))
    probabilities = np.full((num_frames, 3), 0.1, dtype=np.float32)
    probabilities[np.arange(num_frames), seen] = 0.8
    return truth, probabilities


DYNAMICS = learn_dynamics(rows_of(("a", 40, 0), ("b", 40, 0), ("c", 40, 0)), LABELS)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("smooth", ["median", "viterbi"])
def test_flicker_goes_and_the_order_stays(smooth, causal):
    truth, probabilities = flickering()
    probabilities[60] = np.nan
    raw = (np.nan_to_num(probabilities).argmax(axis=1) == truth).mean()
    smoothed = smooth_labels(probabilities, smooth, DYNAMICS, 1.0, causal=causal)
    assert (smoothed == truth).mean() > raw + (0.05 if causal else 0.15)
    assert smoothed[60] == 1


@pytest.mark.parametrize("smooth", ["median", "viterbi"])
def test_a_causal_decision_does_not_change_with_the_future(smooth):
    _, probabilities = flickering()
    whole = smooth_labels(probabilities, smooth, DYNAMICS, 1.0, causal=True)
    for stop in (1, 17, 60):
        part = smooth_labels(probabilities[:stop], smooth, DYNAMICS, 1.0, causal=True)
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


def test_predictions_come_back_with_damaged_times_and_all_probabilities(tmp_path):
    info = PredictionInfo(("a", "b b", "10"), 2.0, "f" * 64)
    _, probabilities = flickering(num_frames=30)
    probabilities[7] = np.nan
    videos = [VideoPrediction(name, np.arange(30) / 2, probabilities) for name in ("001", "x y")]
    path = tmp_path / "p.parquet"
    assert write_predictions(path, [(v, v.labels) for v in videos], info) == 60
    assert read_info(path) == info
    for video, (read, labels) in zip(videos, read_predictions(path), strict=True):
        assert read.video_id == video.video_id
        np.testing.assert_array_equal(read.times_s, video.times_s)
        np.testing.assert_array_equal(read.probabilities, probabilities)
        assert labels.tolist() == video.labels.tolist()
        assert labels[7] == -1
    (tmp_path / "q.parquet").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"q\.parquet holds no predictions"):
        read_info(tmp_path / "q.parquet")


def test_two_videos_of_one_name_keep_apart(tmp_path):
    for name in ("a/1.mp4", "b/1.MOV", "b/2.mkv", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([str(tmp_path / "a/1.mp4"), str(tmp_path / "b")])
    assert list(found) == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b/1.MOV"), "2"]
    with pytest.raises(UserError, match="none does not exist"):
        find_videos(["none"])
