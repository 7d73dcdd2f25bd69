"""Which frames a video has, when they are shown, and where to start decoding: arithmetic alone."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MIN_JUMP_FRAMES = 12
"""A jump that spares fewer frames costs more than it spares: the decoder starts empty."""


def _no_times() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What a video file holds, found without decoding it.

    ``times_s``: float64 (N,), ascending presentation times of all frames, the first one at 0;
    ``pts``: int64 (N,), the same in the stream's own unit; ``key_pts``: int64 (M,), ascending, of
    the frames that decoding can start at, none when only decoding told the times.
    """

    times_s: NDArray[np.float64]
    pts: NDArray[np.int64]
    key_pts: NDArray[np.int64] = field(default_factory=_no_times)

    def frames_between(self, start_s: float, end_s: float) -> range:
        """Indices of the frames shown first in ``[start_s, end_s)``."""
        # annotations are rounded to the millisecond or so, times are not
        bounds = np.searchsorted(self.times_s, [start_s - 1e-6, end_s - 1e-6])
        return range(int(bounds[0]), int(bounds[1]))


@dataclass(frozen=True, slots=True)
class DecodeSpan:
    """Frames that are decoded without a jump between them.

    ``key``: place in ``VideoIndex.key_pts`` of the frame to jump to, None to go on from where the
    decoder is; ``wanted``: ascending frame indices.
    """

    key: int | None
    wanted: NDArray[np.int64]


def plan_spans(index: VideoIndex, wanted: NDArray[np.int64]) -> list[DecodeSpan]:
    """Where to jump: over at least ``MIN_JUMP_FRAMES`` frames that need not be decoded."""
    # the key frame at or before each wanted frame, -1 for none
    key = np.searchsorted(index.key_pts, index.pts[wanted], side="right") - 1
    key_frame = np.searchsorted(index.pts, index.key_pts[key]) if len(index.key_pts) else key
    reached = np.concatenate([[0], wanted[:-1] + 1])
    is_jump = (key >= 0) & (key_frame - reached >= MIN_JUMP_FRAMES)
    starts = np.flatnonzero(is_jump)
    bounds = [0, *(int(i) for i in starts if i), len(wanted)]
    return [
        DecodeSpan(int(key[first]) if is_jump[first] else None, wanted[first:last])
        for first, last in itertools.pairwise(bounds)
    ]
