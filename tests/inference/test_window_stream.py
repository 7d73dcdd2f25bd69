"""Whole videos: the frames of each window, damaged frames, and the names of videos."""

import itertools
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig, WindowImage
from ophnet_ray.data.datasets import OphNetDataModule
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from ophnet_ray.data.video.index import VideoIndex
from ophnet_ray.inference.window_stream import (
    WindowStream,
    frame_times,
    plan_window,
    stream_windows,
)
from tests.helpers.videos import grey_frames, write_damaged_video, write_video

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(window_size=8, stride=4, max_frames=8, image_size=32)


def test_every_frame_time_up_to_the_last_frame_has_one_window_in_order(tmp_path):
    """Frame k is grey 2k at 10 frames/s: a centred window of 8 has the mean 2(10 t - 0.5)."""
    video = write_video(tmp_path / "v.mp4", grey_frames(95), frame_rate=10)
    windows = list(stream_windows(str(video), WindowStream(WINDOWS, 1.0)))
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
        [w.image.mean() for w in stream_windows(str(path), WindowStream(WINDOWS, 1.0, causal=True))]
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
        list(stream_windows(str(tmp_path / "no.mp4"), WindowStream(WINDOWS, 1.0)))
    video = write_damaged_video(tmp_path / "v.mp4")
    windows = list(stream_windows(str(video), WindowStream(WINDOWS, 1.0)))
    assert len(windows) == 10
    damaged = [window for window in windows if window.image is None]
    assert 1 <= len(damaged) <= 4
    assert "damaged" in damaged[0].reason


@pytest.mark.parametrize("window_image", get_args(WindowImage))
def test_a_video_is_shown_to_the_network_as_training_showed_its_segments(tmp_path, window_image):
    """The window of frame times 1 s and 3 s, and segments of the same frames."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", noise, frame_rate=10)
    windows = replace(WINDOWS, window_image=window_image)
    predicted = {w.index: w.image for w in stream_windows(str(video), WindowStream(windows, 1.0))}
    (tmp_path / "segments.csv").write_text(
        "video_id,start,end,phase,split\nv,0.6,1.4,a,train\nv,2.6,3.4,b,val\n"
    )
    data = OphNetDataModule(
        tmp_path / "segments.csv", cache_dir=tmp_path / "cache", batch_size=1, **asdict(windows)
    )
    data.setup()
    for time_s, loader in ((1, data.train_dataloader()), (3, data.val_dataloader())):
        (batch,) = loader
        np.testing.assert_array_equal(
            batch["pixels"][0].permute(1, 2, 0).numpy(), predicted[time_s]
        )


def test_a_sharp_window_shows_the_frame_of_its_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", noise, frame_rate=10)
    index = read_video_index(str(video))
    decoded = [f.pixels for f in decode_frames(str(video), index, np.arange(10, 60, 10))]
    sharp = replace(WINDOWS, window_image="center")
    shown = list(stream_windows(str(video), WindowStream(sharp, 1.0)))
    for window, pixels in zip(shown[1:], decoded, strict=True):
        np.testing.assert_array_equal(window.image, pixels)
