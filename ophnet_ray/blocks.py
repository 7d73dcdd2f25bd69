"""Video and segments → blocks: decode once, sum at full size, resize one mean a block."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ophnet_ray.annotations import Segment
from ophnet_ray.config import WindowConfig
from ophnet_ray.videos import VideoError, VideoIndex, decode_frames, read_video_index
from ophnet_ray.windows import plan_blocks, plan_runs

RESIZE_FILTER = "area"


@dataclass(frozen=True, slots=True)
class SegmentBlocks:
    """The decoded blocks of one segment, or the reason why it cannot be read.

    ``pixels``: uint8 RGB (S, S, 3) each; ``run_lengths``: blocks of each run of consecutive
    frames; ``was_cut``: the annotation goes on past the end of the video; ``is_lasting``: the
    reason lies in the file, not in the moment.
    """

    pixels: tuple[NDArray[np.uint8], ...] = ()
    run_lengths: tuple[int, ...] = ()
    was_cut: bool = False
    reason: str = ""
    is_lasting: bool = True


def decode_segments(
    video: str, segments: Sequence[Segment], windows: WindowConfig
) -> list[SegmentBlocks]:
    """Decode all segments of one video in one pass.

    Memory: the blocks and, at full size, one frame and one sum for each segment that overlaps
    there, whatever the length of the video.

    Returns:
        One result a segment, in their order; never raises for what a video file holds.
    """
    try:
        index = read_video_index(video)
        plans = [_plan_segment(segment, index, windows) for segment in segments]
        blocks = _sum_blocks(video, index, [b for plan in plans for b in plan.blocks], windows)
    except VideoError as error:
        return [SegmentBlocks(reason=str(error), is_lasting=error.is_lasting) for _ in segments]
    return [_collect(plan, blocks, index) for plan in plans]


def _collect(
    plan: "_Plan", blocks: Mapping[range, NDArray[np.uint8]], index: VideoIndex
) -> SegmentBlocks:
    """The blocks of one segment; a segment with a damaged frame is rejected whole."""
    if plan.reason:
        return SegmentBlocks(reason=plan.reason)
    lost = next((block for block in plan.blocks if block not in blocks), None)
    if lost is not None:
        at_s = index.times_s[lost.start]
        return SegmentBlocks(reason=f"damaged: a frame at or after {at_s:.2f} s cannot be decoded")
    pixels = tuple(blocks[block] for block in plan.blocks)
    return SegmentBlocks(pixels, plan.run_lengths, was_cut=plan.was_cut)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The frames of each block of a segment, or why there are none."""

    blocks: tuple[range, ...] = ()
    run_lengths: tuple[int, ...] = ()
    was_cut: bool = False
    reason: str = ""


def _plan_segment(segment: Segment, index: VideoIndex, windows: WindowConfig) -> _Plan:
    inside = index.frames_between(segment.start_s, segment.end_s)
    last_s = float(index.times_s[-1])
    if not len(inside):
        if segment.start_s > last_s:
            return _Plan(
                reason=f"starts at {segment.start_s:g} s; the video ends at {last_s:.2f} s"
            )
        return _Plan(reason=f"no frame is shown in {segment.start_s:g} to {segment.end_s:g} s")
    runs = [
        range(inside.start + run.start, inside.start + run.stop)
        for run in plan_runs(len(inside), windows)
    ]
    return _Plan(
        tuple(plan_blocks(runs, windows.stride)),
        tuple(max(len(run) // windows.stride, 1) for run in runs),
        # the last frame is shown for a while, how long is not known: allow it 0.1 s
        was_cut=math.isfinite(segment.end_s) and segment.end_s > last_s + 0.1,
    )


def _sum_blocks(
    video: str, index: VideoIndex, plan: Sequence[range], windows: WindowConfig
) -> dict[range, NDArray[np.uint8]]:
    """Decode and average each block: sums at full size, then one resize a block.

    Returns:
        The blocks all of whose frames came, uint8 RGB (S, S, 3).
    """
    unique = sorted(set(plan), key=lambda block: (block.start, block.stop))
    wanted = np.unique(np.concatenate([np.asarray(b) for b in unique])) if unique else np.empty(0)
    done: dict[range, NDArray[np.uint8]] = {}
    waiting = list(reversed(unique))
    open_sums: dict[range, tuple[NDArray[np.uint16], int]] = {}
    for frame in decode_frames(video, index, wanted.astype(np.int64)):
        while waiting and waiting[-1].start <= frame.index:
            block = waiting.pop()
            open_sums[block] = (np.zeros(frame.pixels.shape, dtype=np.uint16), 0)
        for block, (total, count) in list(open_sums.items()):
            # a stream may change its size; such a block stays incomplete and is reported
            if frame.index in block and total.shape == frame.pixels.shape:
                # numpy's widening add takes a third of the time of OpenCV's
                np.add(total, frame.pixels, out=total)
                open_sums[block] = (total, count + 1)
            if frame.index >= block.stop - 1:
                _, num_summed = open_sums.pop(block)
                if num_summed == len(block):
                    small = _resize_mean(total, num_summed, windows.image_size)
                    done[block] = np.rot90(small, frame.quarter_turns)
    return done


def _resize_mean(total: NDArray[np.uint16], count: int, size: int) -> NDArray[np.uint8]:
    """The sum of ``count`` frames → their mean at (size, size), rounded half up.

    ``total`` is used up: it is stretched over uint16's range first, so that the rounding of the
    resize does not count (converting it to floating point would cost as much as two frames).
    """
    scale = 65535 // (255 * count)
    total *= np.uint16(scale)
    small = cv2.resize(total, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint32)
    divisor = scale * count
    return np.asarray((small + divisor // 2) // divisor, dtype=np.uint8)
