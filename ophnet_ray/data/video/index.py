"""The frames of a video, their times, and the positions at which decoding can start."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MIN_JUMP_FRAMES = 12
"""A jump over fewer frames costs more than it saves: the decoder starts empty."""
_TOLERANCE_S = 1e-6
"""Annotated times are rounded, frame times are not."""


def frames_between(times_s: NDArray[np.float64], start_s: float, end_s: float) -> range:
    """Return the indices of the frames whose display starts in ``[start_s, end_s)``.

    Args:
        times_s: Ascending frame times (N,).
        start_s: Start of the interval, as annotated.
        end_s: Its end.
    """
    first, stop = np.searchsorted(times_s, [start_s - _TOLERANCE_S, end_s - _TOLERANCE_S])
    return range(int(first), int(stop))


def frames_shown_at(
    times_s: NDArray[np.float64], at_s: float | NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the index of the frame shown at each time; the first frame before the video starts.

    Args:
        times_s: Ascending frame times (N,).
        at_s: One time, or an array of any shape.

    Returns:
        Indices of the shape of ``at_s``.
    """
    after = np.searchsorted(times_s, np.asarray(at_s) + _TOLERANCE_S, side="right")
    return np.asarray(np.maximum(after - 1, 0), dtype=np.int64)


def _no_times() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The frames of a video file, listed without decoding it.

    ``times_s``: float64 (N,), ascending presentation times of all frames, the first one at 0;
    ``pts``: int64 (N,), the same in the stream's own unit; ``key_pts``: int64 (M,), ascending times
    of the frames at which decoding can start, none if the packets carry no times; ``is_counted``:
    the times of decoded frames are wrong, but the k-th decoded frame is frame k.
    """

    times_s: NDArray[np.float64]
    pts: NDArray[np.int64]
    key_pts: NDArray[np.int64] = field(default_factory=_no_times)
    is_counted: bool = False

    def frames_between(self, start_s: float, end_s: float) -> range:
        """Return the indices of the frames whose display starts in ``[start_s, end_s)``."""
        return frames_between(self.times_s, start_s, end_s)


@dataclass(frozen=True, slots=True)
class DecodeSpan:
    """Frames that are decoded without a jump between them.

    ``key``: index in ``VideoIndex.key_pts`` of the frame to jump to, None to continue from the
    decoder's position; ``wanted``: ascending frame indices.
    """

    key: int | None
    wanted: NDArray[np.int64]


def plan_spans(index: VideoIndex, wanted: NDArray[np.int64], lead: int = 0) -> list[DecodeSpan]:
    """Plan jumps over at least ``MIN_JUMP_FRAMES`` frames that need not be decoded.

    Args:
        index: Index of the video.
        wanted: Ascending frame indices.
        lead: Key frames to go back further than the last one before a wanted frame.
    """
    # the key frame at or before each wanted frame, negative for none
    key = np.searchsorted(index.key_pts, index.pts[wanted], side="right") - 1 - lead
    key_frame = (
        np.searchsorted(index.pts, index.key_pts[np.maximum(key, 0)]) if len(index.key_pts) else key
    )
    reached = np.concatenate([[0], wanted[:-1] + 1])
    is_jump = (key >= 0) & (key_frame - reached >= MIN_JUMP_FRAMES)
    starts = np.flatnonzero(is_jump)
    bounds = [0, *(int(i) for i in starts if i), len(wanted)]
    return [
        DecodeSpan(int(key[first]) if is_jump[first] else None, wanted[first:last])
        for first, last in itertools.pairwise(bounds)
    ]
