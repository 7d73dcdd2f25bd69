"""The compiled arithmetic of the decode stage, against FFmpeg's conversion and OpenCV's resize."""

import platform

import av
import cv2
import numba
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import pictures
from ophnet_ray.data.video.blocks import decode_segments
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from ophnet_ray.data.video.jit import Compiled
from ophnet_ray.data.video.kernels import plan_bands, resize_mean
from ophnet_ray.data.video.pictures import PictureReader
from ophnet_ray.data.video.planes import RgbPicture, Yuv420Picture, add_pair
from tests.helpers.videos import write_video

pytestmark = pytest.mark.unit


def noisy_frame(height, width, pixel_format="yuv420p", seed=0):
    """Every value of Y, U and V: most colours clip."""
    frame = av.VideoFrame(width, height, pixel_format)
    rng = np.random.default_rng(seed)
    for plane in frame.planes:
        plane.update(rng.bytes(plane.buffer_size))
    return frame


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors round otherwise")
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize(
    "colorspace", [Colorspace.ITU709, Colorspace.ITU601, Colorspace.SMPTE240M, 2, 9]
)
def test_planes_are_converted_bit_for_bit_as_ffmpeg_does(colorspace, color_range):
    frame = noisy_frame(96, 160)
    frame.colorspace, frame.color_range = colorspace, color_range
    picture = PictureReader().read(frame)
    assert isinstance(picture, Yuv420Picture)
    np.testing.assert_array_equal(picture.to_rgb(), frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize(
    ("height", "width", "pixel_format"),
    [(96, 161, "yuv420p"), (95, 160, "yuv420p"), (64, 64, "yuv422p"), (64, 64, "yuv420p10le")],
)
def test_what_we_cannot_convert_ffmpeg_does(height, width, pixel_format):
    frame = noisy_frame(height, width, pixel_format)
    picture = PictureReader().read(frame)
    assert isinstance(picture, RgbPicture)
    np.testing.assert_array_equal(picture.to_rgb(), frame.to_ndarray(format="rgb24"))


def test_where_our_conversion_is_not_ffmpegs_it_is_not_used(monkeypatch):
    factors = pictures.yuv_factors
    monkeypatch.setattr(pictures, "yuv_factors", lambda *a, **k: factors(*a, **k) - np.int16(9))
    pictures.converts_as_ffmpeg.cache_clear()
    reader = PictureReader()
    black = av.VideoFrame.from_ndarray(np.zeros((96, 160, 3), np.uint8), "rgb24")
    for frame in (black.reformat(format="yuv420p"), noisy_frame(96, 160)):
        picture = reader.read(frame)
        assert isinstance(picture, RgbPicture)
        np.testing.assert_array_equal(picture.to_rgb(), frame.to_ndarray(format="rgb24"))
    pictures.converts_as_ffmpeg.cache_clear()


@pytest.mark.parametrize(
    "shape", [(96, 128), (480, 853), (1080, 1920), (97, 96), (48, 64), (40, 500), (500, 40)]
)
@pytest.mark.parametrize(("size", "count"), [(96, 1), (96, 8), (96, 256), (100, 8), (9, 8)])
def test_a_mean_is_that_of_the_area_that_a_pixel_covers(shape, size, count):
    pixels = np.random.default_rng(count).integers(0, 256, (*shape, 3), dtype=np.uint8)
    bands = plan_bands(shape, size, count)
    total = bands.empty_sum()
    for _ in range(count):
        RgbPicture(pixels).add_to(total, bands.rows)
    exact = cv2.resize(pixels.astype(np.float64), (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs(resize_mean(total, bands, count) - exact).max() < 0.51


@pytest.mark.parametrize("count", [8, 128, 256])
def test_no_sum_overflows(count):
    """White frames are white, whatever the stride and however many rows are one sum."""
    white = RgbPicture(np.full((2160, 64, 3), 255, dtype=np.uint8))
    bands = plan_bands(white.shape, 32, count)
    total = bands.empty_sum()
    for _ in range(count):
        white.add_to(total, bands.rows)
    assert total.max() == count * 255 * np.bincount(bands.rows).max() > 2**15
    assert (resize_mean(total, bands, count) == 255).all()


def test_rows_are_one_sum_where_one_row_of_the_mean_covers_them():
    assert plan_bands((24, 32), 8, 8).rows.tolist() == np.repeat(np.arange(8), 3).tolist()
    assert plan_bands((20, 32), 8, 8).rows.tolist()[:10] == [0, 0, 1, 2, 2, 3, 3, 4, 5, 5]
    assert plan_bands((96, 32), 8, 64).rows.tolist()[:8] == [0] * 4 + [1] * 4  # 4 x 64 x 255 fit
    assert plan_bands((1080, 1920), 224, 8).sum_shape == (3, 440, 1920)
    with pytest.raises(ValueError, match="300 frames"):
        plan_bands((96, 32), 8, 300)


def test_two_frames_in_one_pass_are_added_as_one_by_one():
    bands = plan_bands((1080, 1920), 224, 8)
    one, two = (PictureReader().read(noisy_frame(1080, 1920, seed=seed)) for seed in (1, 2))
    three = RgbPicture(two.to_rgb())
    total = bands.empty_sum()
    add_pair(one, two, total, bands.rows)
    add_pair(one, three, total, bands.rows)
    frames = np.sum([p.to_rgb() for p in (one, two, one, three)], axis=0, dtype=np.uint16)
    starts = np.flatnonzero(np.diff(bands.rows, prepend=-1))
    sums = np.add.reduceat(frames, starts, axis=0, dtype=np.uint16)
    np.testing.assert_array_equal(total, np.moveaxis(sums, -1, 0))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64, 64), {}),
        ((38, 70), {}),  # cut from whole macroblocks
        ((64, 64), {"x264-params": "interlaced=1"}),
        ((64, 64), {"x264-params": "colormatrix=bt709:fullrange=on"}),
    ],
)
def test_decoded_frames_are_ffmpegs_to_the_last_bit(tmp_path, shape, options):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(8)]
    path = write_video(tmp_path / "v.mp4", noise, **options)
    index = read_video_index(path)
    ours = list(decode_frames(path, index, np.arange(8)))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert all(f.interlaced_frame == ("interlaced=1" in str(options)) for f in frames)
    for frame, theirs in zip(ours, frames, strict=True):
        np.testing.assert_array_equal(frame.pixels, theirs.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_a_block_is_the_mean_of_its_frames_whatever_their_number(tmp_path, stride):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(24)]
    path = str(write_video(tmp_path / "v.mp4", noise))
    windows = WindowConfig(
        window_size=stride, stride=stride, max_frames=24, coverage="head", image_size=32
    )
    segment = Segment("s", "c", path, 0.0, float("inf"), "a", "train")
    ((_, blocks),) = decode_segments(path, [segment], windows)
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(blocks.pixels) == 24 // stride
    for i, block in enumerate(blocks.pixels):
        mean = np.mean(frames[i * stride : (i + 1) * stride], axis=0)
        exact = cv2.resize(mean, (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(block - exact).max() < 0.51


def test_colours_that_ffmpeg_does_not_know_are_a_reason():
    frame = noisy_frame(64, 64)
    frame.colorspace = 8  # YCgCo
    with pytest.raises(VideoError, match="cannot be converted to RGB"):
        PictureReader().read(frame)


def test_code_that_cannot_be_kept_or_is_damaged_is_compiled_again(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def add_one(values):
        values += 1

    values = np.zeros(3)
    Compiled(add_one)(values)
    for kept in tmp_path.rglob("*.nb*"):
        kept.write_bytes(b"torn")
    assert list(tmp_path.rglob("*.nbi"))
    Compiled(add_one)(values)
    assert "compiled code is not kept" in caplog.text
    njit = numba.njit

    def refuse_to_keep(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refuse_to_keep)
    Compiled(add_one)(values)
    assert values.tolist() == [3, 3, 3]
