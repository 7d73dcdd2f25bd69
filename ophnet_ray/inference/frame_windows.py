"""A whole video → one window for each frame time, in one pass and bounded memory.

The rule. The frame times are ``k / frame_rate`` for k = 0, 1, … up to the last frame. The window of
a time holds ``window_size`` consecutive frames at the video's own rate, as in training, *centred*
on the frame that is shown then, and moved inwards at both ends of the video. *Causal* windows end
with that frame instead, and hold only what there is at the start of the video: nothing of the
future is used.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.video.blocks import decode_segments
from ophnet_ray.data.video.decoder import VideoError, read_video_index
from ophnet_ray.data.video.index import VideoIndex
from ophnet_ray.data.windows import mean_of_blocks


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """The mean image of a frame time, uint8 RGB (S, S, 3); None, and why, when it is damaged."""

    place: int
    image: NDArray[np.uint8] | None
    reason: str = ""


def frame_times(last_s: float, frame_rate: float) -> NDArray[np.float64]:
    """``k / frame_rate`` up to the time of the last frame, (N,), N > 0."""
    # times are rounded in files: 29.999999 s is 30 s
    return np.arange(math.floor(last_s * frame_rate + 1e-3) + 1) / frame_rate


def read_frame_times(video: str, frame_rate: float) -> NDArray[np.float64]:
    """The frame times of a video.

    Raises:
        VideoError: It cannot be read.
    """
    return frame_times(float(read_video_index(video).times_s[-1]), frame_rate)


def stream_windows(
    video: str, frame_rate: float, windows: WindowConfig, *, causal: bool = False
) -> Iterator[FrameWindow]:
    """Decode a video once and yield the window of each frame time, in order.

    Memory: the blocks of the windows that overlap at one moment, and some hundred bytes a frame
    time.

    Args:
        video: Path.
        frame_rate: Frame times a second.
        windows: ``window_size``, ``stride`` and ``image_size`` as trained.
        causal: Use nothing after a frame time for it.

    Raises:
        VideoError: It cannot be read, or storage failed in the middle.
    """
    index = read_video_index(video)
    times_s = frame_times(float(index.times_s[-1]), frame_rate)
    # each window is asked for like a short segment: the same pixels as in training
    segments = [
        _as_segment(place, video, index, plan_window(index, time_s, windows.window_size, causal))
        for place, time_s in enumerate(times_s)
    ]
    whole = WindowConfig(
        window_size=windows.window_size,
        stride=windows.stride,
        max_frames=windows.window_size,
        coverage="head",
        image_size=windows.image_size,
    )
    for place, blocks in decode_segments(video, segments, whole):
        if blocks.pixels:
            yield FrameWindow(place, mean_of_blocks(np.stack(blocks.pixels)))
        elif blocks.is_permanent:
            yield FrameWindow(place, None, blocks.reason)
        else:
            raise VideoError(blocks.reason, is_permanent=False)


def plan_window(index: VideoIndex, time_s: float, window_size: int, causal: bool) -> range:
    """The frames of the window of a time."""
    num_frames = len(index.times_s)
    shown = max(int(np.searchsorted(index.times_s, time_s + 1e-6, side="right")) - 1, 0)
    if causal:
        return range(max(shown - window_size + 1, 0), shown + 1)
    first = min(max(shown - window_size // 2, 0), max(num_frames - window_size, 0))
    return range(first, min(first + window_size, num_frames))


def _as_segment(place: int, video: str, index: VideoIndex, frames: range) -> Segment:
    at_end = frames.stop == len(index.times_s)
    end_s = math.inf if at_end else float(index.times_s[frames.stop])
    return Segment(str(place), "", video, float(index.times_s[frames.start]), end_s, "")
