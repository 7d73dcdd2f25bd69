"""Video and segments → blocks: decode once, sum frames, resize one mean per block."""

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.segments import RejectKind, Segment
from ophnet_ray.data.video.container import (
    VideoError,
    VideoSource,
    lies_in_content,
    open_video,
)
from ophnet_ray.data.video.decoder import Frame, decode_frames, read_video_index
from ophnet_ray.data.video.index import VideoIndex
from ophnet_ray.data.video.kernels import RowBands, plan_bands, resize_mean
from ophnet_ray.data.video.planes import Picture, add_pair
from ophnet_ray.data.windows import first_frames, plan_blocks, plan_snippets

RESIZE_FILTER = "area"
RETRY_PAUSES_S = (0.5, 2.0, 8.0)
"""Pauses before a video is read again after a failure of storage."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentBlocks:
    """The decoded blocks of one segment, or the reason why it cannot be read.

    ``pixels``: uint8 RGB (S, S, 3) each; ``snippet_lengths``: blocks of each snippet (consecutive
    frames); ``is_truncated``: the annotation ends after the video; ``kind``: of the reason, None
    without one; ``is_permanent``: the reason lies in the file and will be the same the next time.
    """

    pixels: tuple[NDArray[np.uint8], ...] = ()
    snippet_lengths: tuple[int, ...] = ()
    is_truncated: bool = False
    reason: str = ""
    kind: RejectKind | None = None
    is_permanent: bool = True


def decode_segments(
    video: str,
    segments: Sequence[Segment],
    windows: WindowConfig,
    spool_dir: str | None = None,
) -> Iterator[tuple[int, SegmentBlocks]]:
    """Decode all segments of one video in one pass, each as soon as its last frame has come.

    Memory: the blocks of the segments that overlap at one moment, a sum for each of them and two
    frames, whatever the length of the video.

    A failure of storage is tried again a few times, with growing pauses. ``spool_dir``: see
    ``open_source``.

    Yields:
        The index of a segment and its blocks, in the order in which segments end; never raises
        for what a video file holds.
    """
    left = dict(enumerate(segments))
    for pause_s in (*RETRY_PAUSES_S, None):
        numbers = list(left)
        try:
            with open_video(video, spool_dir) as source:
                for i, blocks in _decode(source, [left[number] for number in numbers], windows):
                    del left[numbers[i]]
                    yield numbers[i], blocks
        except VideoError as error:
            if pause_s is None or error.is_permanent or error.kind == "missing":
                is_permanent = error.is_permanent or lies_in_content(error, video)
                rejected = SegmentBlocks(
                    reason=str(error), kind=error.kind, is_permanent=is_permanent
                )
                break
            logger.warning("%s %s; tried again in %g s", video, error, pause_s)
        else:
            return
        time.sleep(pause_s)
    for number in left:
        yield number, rejected


def _decode(
    video: VideoSource, segments: Sequence[Segment], windows: WindowConfig
) -> Iterator[tuple[int, SegmentBlocks]]:
    index = read_video_index(video)
    plans = [plan_segment(segment, index, windows) for segment in segments]
    sums = _BlockSums([block for plan in plans for block in plan.blocks], windows)
    waiting = deque(sorted(range(len(plans)), key=lambda number: plans[number].stop))
    for frame in decode_frames(video, index, sums.wanted_frames()):
        while plans[waiting[0]].stop <= frame.index:
            number = waiting.popleft()
            yield number, _collect(plans[number], sums, index)
        sums.add(frame)
    for number in waiting:
        yield number, _collect(plans[number], sums, index)


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """The frames that are decoded for each block of a segment, or why there are none."""

    blocks: tuple[range, ...] = ()
    snippet_lengths: tuple[int, ...] = ()
    is_truncated: bool = False
    reason: str = ""

    @property
    def stop(self) -> int:
        """The frame after the last one."""
        return self.blocks[-1].stop if self.blocks else 0


def _collect(plan: SegmentPlan, sums: "_BlockSums", index: VideoIndex) -> SegmentBlocks:
    """Take the blocks of one segment; a segment with a damaged frame is rejected whole."""
    if plan.reason:
        return SegmentBlocks(reason=plan.reason, kind="outside the video")
    blocks = [sums.take(block) for block in plan.blocks]
    pixels = tuple(block for block in blocks if block is not None)
    if len(pixels) < len(blocks):
        lost = plan.blocks[next(i for i, block in enumerate(blocks) if block is None)]
        at_s = index.times_s[lost.start]
        return SegmentBlocks(
            reason=f"damaged: a frame at or after {at_s:.2f} s cannot be decoded", kind="damaged"
        )
    return SegmentBlocks(pixels, plan.snippet_lengths, is_truncated=plan.is_truncated)


def plan_segment(segment: Segment, index: VideoIndex, windows: WindowConfig) -> SegmentPlan:
    """Choose the frames of a segment's blocks from the index of its video; nothing is decoded."""
    inside = index.frames_between(segment.start_s, segment.end_s)
    last_s = float(index.times_s[-1])
    if not len(inside):
        if segment.start_s > last_s:
            return SegmentPlan(
                reason=f"starts at {segment.start_s:g} s; the video ends at {last_s:.2f} s"
            )
        return SegmentPlan(
            reason=f"no frame is shown in {segment.start_s:g} to {segment.end_s:g} s"
        )
    snippets = [
        range(inside.start + snippet.start, inside.start + snippet.stop)
        for snippet in plan_snippets(len(inside), windows)
    ]
    blocks = plan_blocks(snippets, windows.stride)
    if windows.stored_image == "center":
        blocks = first_frames(blocks, windows.stride)
    return SegmentPlan(
        tuple(blocks),
        tuple(max(len(snippet) // windows.stride, 1) for snippet in snippets),
        # the last frame is shown for an unknown time: allow it 0.1 s
        is_truncated=math.isfinite(segment.end_s) and segment.end_s > last_s + 0.1,
    )


@dataclass(slots=True)
class _Sum:
    """The sum of a block's frames so far; the held frame may be the decoder's own memory."""

    total: NDArray[np.uint16]
    bands: RowBands
    count: int = 0
    _held: Picture | None = None

    def add(self, picture: Picture) -> None:
        """Take the next frame; every second call adds two frames in one pass, which is cheaper."""
        self.count += 1
        if self._held is None:
            self._held = picture
        else:
            add_pair(self._held, picture, self.total, self.bands.rows)
            self._held = None

    def mean(self) -> NDArray[np.uint8]:
        """Return the mean of the frames, uint8 RGB (S, S, 3)."""
        if self._held is not None:
            self._held.add_to(self.total, self.bands.rows)
            self._held = None
        return resize_mean(self.total, self.bands, self.count)


class _BlockSums:
    """Frames in, means of blocks out: one sum, then one resize per block.

    Args:
        plan: The frames of each block; a block that n segments share is listed n times.
        windows: The size of the means, and the maximum number of frames per block.
    """

    def __init__(self, plan: Sequence[range], windows: WindowConfig) -> None:
        self._windows = windows
        self._uses = Counter(plan)
        self._coming = sorted(self._uses, key=lambda block: (block.start, block.stop), reverse=True)
        self._open: dict[range, _Sum] = {}
        self._done: dict[range, NDArray[np.uint8]] = {}
        self._spare: list[NDArray[np.uint16]] = []

    def wanted_frames(self) -> NDArray[np.int64]:
        """Return the frames of all blocks, ascending."""
        frames = [np.asarray(block, dtype=np.int64) for block in self._coming]
        return np.unique(np.concatenate(frames)) if frames else np.empty(0, dtype=np.int64)

    def add(self, frame: Frame) -> None:
        """Add the next frame to the blocks that it belongs to."""
        while self._coming and self._coming[-1].start <= frame.index:
            self._open[self._coming.pop()] = self._new_sum(frame.picture.shape)
        for block, block_sum in list(self._open.items()):
            # a stream may change its frame size; such a block stays incomplete and is reported
            if frame.index in block and block_sum.bands.shape == frame.picture.shape:
                block_sum.add(frame.picture)
            if frame.index >= block.stop - 1:
                self._close(block, frame.quarter_turns)

    def take(self, block: range) -> NDArray[np.uint8] | None:
        """Return the mean of a block, uint8 RGB (S, S, 3); None when a frame of it did not come.

        The block is forgotten once all segments that share it have taken it.
        """
        self._uses[block] -= 1
        return self._done.get(block) if self._uses[block] else self._done.pop(block, None)

    def _close(self, block: range, quarter_turns: int) -> None:
        done = self._open.pop(block)
        if done.count == len(block):
            self._done[block] = np.rot90(done.mean(), quarter_turns)
        self._spare.append(done.total)

    def _new_sum(self, shape: tuple[int, int]) -> _Sum:
        bands = plan_bands(shape, self._windows.image_size, self._windows.stride)
        # fresh memory of this size costs as much as adding a frame to it
        spare = self._spare.pop() if self._spare else None
        if spare is None or spare.shape != bands.sum_shape:
            return _Sum(bands.empty_sum(), bands)
        spare.fill(0)
        return _Sum(spare, bands)
