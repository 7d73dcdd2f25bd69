"""Video → pictures of the windows at its frame times, decoded in one pass and bounded memory.

Frame times are ``k / frame_rate`` for k = 0, 1, … up to the last frame. The window of a frame time
holds ``window_size`` consecutive frames at the video's own rate, as in training. It is *centred* on
the frame shown at that time, and moved inwards at both ends of the video. A *causal* window ends
with that frame instead, and is shorter at the start of the video: it uses nothing of the future.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.blocks import decode_segments
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import read_video_index
from ophnet_ray.data.video.index import VideoIndex, frames_shown_at
from ophnet_ray.data.windows import show_window
from ophnet_ray.models.payload import Preprocessing
from ophnet_ray.storage.files import download
from ophnet_ray.storage.paths import is_remote, name_of

BATCH_SIZE = 16


@contextmanager
def local_copy(video: str) -> Iterator[str]:
    """Yield a local path of the video; a video in a bucket is copied, and the copy deleted after.

    Raises:
        VideoError: The video cannot be fetched from the bucket.
    """
    if not is_remote(video):
        yield video
        return
    with tempfile.TemporaryDirectory(prefix="ophnet-video-") as folder:
        copy = Path(folder) / name_of(video)
        try:
            download(video, copy)
        except OSError as error:
            raise VideoError(f"cannot be fetched ({error})", is_permanent=False) from error
        yield str(copy)


def windows_of(preprocessing: Preprocessing) -> WindowConfig:
    """Return the settings of windows for the input of a network."""
    return WindowConfig(
        window_size=preprocessing.window_size,
        stride=preprocessing.stride,
        max_frames=preprocessing.window_size,
        image_size=preprocessing.image_size,
        window_image=preprocessing.window_image,
    )


@dataclass(frozen=True, slots=True)
class WindowStream:
    """Windows that a model sees of a video. Models with equal streams share its decoding.

    ``windows``: see ``windows_of``; ``frame_rate``: frame times per second; ``causal``: windows use
    only frames up to each frame time; ``shifts``: frames by which the windows of one frame time lie
    later than that of the module's docstring, which is the first one.
    """

    windows: WindowConfig
    frame_rate: float
    causal: bool = False
    shifts: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Pictures of B windows, uint8 (B, S, S, channels).

    ``indices``: of their frame times; ``shifts``: positions in ``WindowStream.shifts``.
    """

    indices: NDArray[np.int64]
    shifts: NDArray[np.int64]
    images: NDArray[np.uint8]


def stream_batches(video: str, stream: WindowStream) -> Iterator[WindowBatch]:
    """Decode a video once and yield its readable windows in batches, see ``stream_windows``.

    Raises:
        VideoError: The video cannot be read, or none of its frames can be decoded.
    """
    images: list[NDArray[np.uint8]] = []
    places: list[tuple[int, int]] = []
    reason, is_empty = "", True
    for window in stream_windows(video, stream):
        if window.image is None:
            reason = reason or window.reason
            continue
        images.append(window.image)
        places.append((window.index, window.shift))
        if len(places) == BATCH_SIZE:
            yield _to_batch(places, images)
            images, places, is_empty = [], [], False
    if places:
        yield _to_batch(places, images)
    elif is_empty:
        raise VideoError(reason)


def _to_batch(
    places: Sequence[tuple[int, int]], images: Sequence[NDArray[np.uint8]]
) -> WindowBatch:
    indices, shifts = np.asarray(places, dtype=np.int64).T
    return WindowBatch(indices, shifts, np.stack(images))


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """Picture of a window of a frame time, uint8 (S, S, channels).

    ``index`` counts the frame times from 0, ``shift`` the shifts of the stream. ``image`` is None,
    with a ``reason``, where the frames are damaged.
    """

    index: int
    image: NDArray[np.uint8] | None
    reason: str = ""
    shift: int = 0


def frame_times(last_s: float, frame_rate: float) -> NDArray[np.float64]:
    """Return ``k / frame_rate`` up to the time of the last frame, (N,), N > 0."""
    # times are rounded in files: 29.999999 s is 30 s
    return np.arange(math.floor(last_s * frame_rate + 1e-3) + 1) / frame_rate


def read_frame_times(video: str, frame_rate: float) -> NDArray[np.float64]:
    """Read the frame times of a video.

    Raises:
        VideoError: The video cannot be read.
    """
    return frame_times(float(read_video_index(video).times_s[-1]), frame_rate)


def stream_windows(video: str, stream: WindowStream) -> Iterator[FrameWindow]:
    """Decode a video once and yield the windows of each frame time, in the order of their ends.

    Memory: the blocks of the windows that overlap at one time, and about a hundred bytes per
    window.

    Raises:
        VideoError: The video cannot be read, or storage failed while it was read.
    """
    windows, shifts = stream.windows, stream.shifts
    index = read_video_index(video)
    times_s = frame_times(float(index.times_s[-1]), stream.frame_rate)
    # each window is decoded like a short segment: the same pixels as in training
    segments = [
        _as_segment(
            str(i * len(shifts) + k),
            video,
            index,
            plan_window(index, time_s, windows.window_size, stream.causal, shift),
        )
        for i, time_s in enumerate(times_s)
        for k, shift in enumerate(shifts)
    ]
    one_window = WindowConfig(
        window_size=windows.window_size,
        stride=windows.stride,
        max_frames=windows.window_size,
        coverage="head",
        image_size=windows.image_size,
        window_image=windows.window_image,
    )
    for number, blocks in decode_segments(video, segments, one_window):
        i, k = divmod(number, len(shifts))
        if blocks.pixels:
            yield FrameWindow(i, show_window(blocks.pixels, windows.window_image), shift=k)
        elif blocks.is_permanent:
            yield FrameWindow(i, None, blocks.reason, k)
        else:
            raise VideoError(blocks.reason, is_permanent=False)


def plan_window(
    index: VideoIndex, time_s: float, window_size: int, causal: bool, shift: int = 0
) -> range:
    """Return the indices of the frames in a window of a frame time.

    Args:
        index: Of the video.
        time_s: The frame time.
        window_size: Frames of a window.
        causal: The window ends with the frame shown at that time.
        shift: Frames by which it lies later; at the ends of the video as far as there are frames.
    """
    num_frames = len(index.times_s)
    shown = int(frames_shown_at(index.times_s, time_s))
    shown = min(max(shown + shift, 0), num_frames - 1)
    if causal:
        return range(max(shown - window_size + 1, 0), shown + 1)
    first = min(max(shown - window_size // 2, 0), max(num_frames - window_size, 0))
    return range(first, min(first + window_size, num_frames))


def _as_segment(name: str, video: str, index: VideoIndex, frames: range) -> Segment:
    at_end = frames.stop == len(index.times_s)
    end_s = math.inf if at_end else float(index.times_s[frames.stop])
    return Segment(name, "", video, float(index.times_s[frames.start]), end_s, "")
