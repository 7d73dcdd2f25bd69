"""Frames → blocks → windows, as arithmetic on indices.

A *block* is the mean of ``stride`` consecutive frames, a *window* the mean of ``window_size`` of
them. Since the window size is a multiple of the stride, every window is the mean of neighbouring
blocks: the cache holds blocks, and windows of any size are cut from them without decoding again.

Under ``window_image="center"`` one frame stands for each block, its first one. A window shows that
of its middle block: the frame in the middle of an even number of blocks, and half a block before
the middle of an odd one.

Under ``window_image="mean+motion"`` a window has a fourth channel: where neighbouring blocks
differ. It needs nothing that the cache of means does not hold.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import MaskKind, WindowConfig, WindowImage

SNIPPET_FRAMES = 32
"""Frames of a snippet under ``coverage="spread"``, for every window size up to this number."""


class SlidingWindowExtractor:
    """Cut a sequence of frames into overlapping windows.

    Args:
        window_size: Frames in a window.
        stride: Frames between the starts of neighbouring windows.
    """

    def __init__(self, window_size: int = 16, stride: int = 8) -> None:
        self.window_size = window_size
        self.stride = stride

    def extract_windows(self, frames: Sequence[Any], masks: Sequence[Any] | None = None) -> Any:
        """Stack every complete window.

        Args:
            frames: T arrays of one shape, e.g. (H, W, 3).
            masks: T arrays of one shape, cut the same way.

        Returns:
            Array (N, window_size, *frame shape), and a second one of the masks when given.
            N = 0 when there are fewer frames than a window needs.
        """
        windows = self._cut(frames)
        return windows if masks is None else (windows, self._cut(masks))

    def _cut(self, items: Sequence[Any]) -> NDArray[Any]:
        array = np.asarray(items)
        starts = range(0, len(array) - self.window_size + 1, self.stride)
        if not starts:
            return np.empty((0, self.window_size, *array.shape[1:]), dtype=array.dtype)
        return np.stack([array[start : start + self.window_size] for start in starts])


def snippet_frames(windows: WindowConfig) -> int:
    """Return the frames of a snippet: whole blocks, at least one window.

    All window sizes up to ``SNIPPET_FRAMES`` have the same number, so that they share decoded
    blocks.
    """
    if windows.coverage == "head":
        return windows.max_frames
    wanted = max(SNIPPET_FRAMES // windows.stride * windows.stride, windows.window_size)
    return min(wanted, windows.max_frames)


def plan_snippets(num_frames: int, windows: WindowConfig) -> list[range]:
    """Choose the frames of a segment that are read, as snippets: ranges of consecutive frames.

    A snippet is that of "Temporal Segment Networks" (arXiv:1608.00859): short, and spread over the
    segment.

    Args:
        num_frames: Frames of the segment, at least 1.
        windows: Settings of coverage, stride and maximum number of frames.

    Returns:
        Disjoint ascending ranges of frame indices. Each holds a whole number of blocks, except
        that a segment shorter than a block is one snippet of all its frames.
    """
    stride = windows.stride
    if num_frames < stride:
        return [range(num_frames)]
    length = snippet_frames(windows)
    num_runs = windows.max_frames // length
    if windows.coverage == "head" or num_runs == 1 or num_frames <= num_runs * length:
        usable = min(num_frames, windows.max_frames) // stride * stride
        first = 0 if windows.coverage == "head" else (num_frames - usable) // 2
        return [range(first, first + usable)]
    length = length // stride * stride
    # the middles of num_runs equal parts: no snippet at the very edge, where phases blend
    room = num_frames / num_runs
    starts = [round(room * (i + 0.5) - length / 2) for i in range(num_runs)]
    return [range(start, start + length) for start in starts]


def plan_blocks(snippets: Sequence[range], stride: int) -> list[range]:
    """Return the frames of each block, in order."""
    return [
        snippet[start : start + stride]
        for snippet in snippets
        for start in range(0, max(len(snippet) - stride, 0) + 1, stride)
    ]


def first_frames(blocks: Sequence[range], stride: int) -> list[range]:
    """Return the frame that stands for each block where windows show one sharp frame.

    It is the first one; the middle one of a block that is shorter than ``stride``, and so a window.
    """
    starts = [0 if len(block) == stride else len(block) // 2 for block in blocks]
    return [block[start : start + 1] for block, start in zip(blocks, starts, strict=True)]


def cut_windows(snippet_lengths: Sequence[int], blocks_per_window: int) -> NDArray[np.int64]:
    """Cut the windows of a segment; no window crosses from one snippet into the next.

    Args:
        snippet_lengths: Blocks in each snippet, in order.
        blocks_per_window: See ``WindowConfig``.

    Returns:
        (N, 2): first block and number of blocks of each window. A segment whose
        snippets are all shorter than a window is one window: its longest snippet.
    """
    windows = []
    first = 0
    for length in snippet_lengths:
        windows += [(first + i, blocks_per_window) for i in range(length - blocks_per_window + 1)]
        first += length
    if not windows:
        longest = int(np.argmax(snippet_lengths))
        windows = [(sum(snippet_lengths[:longest]), snippet_lengths[longest])]
    return np.asarray(windows, dtype=np.int64)


def shown_blocks(first: int, count: int, window_image: WindowImage) -> tuple[int, int]:
    """Return the first block and the number of blocks that make the picture of a window.

    Args:
        first: First block of the window.
        count: Number of its blocks.
        window_image: See ``WindowConfig``.
    """
    return (first + count // 2, 1) if window_image == "center" else (first, count)


def count_channels(window_image: WindowImage) -> int:
    """Return the channels of a window's picture: red, green, blue and, in some, motion."""
    return 4 if window_image == "mean+motion" else 3


def count_masks(mask: MaskKind, window_image: WindowImage) -> int:
    """Return the masks of a window that a network fuses, M: two of its colours, one of motion."""
    return (0 if mask == "none" else 2) + (1 if window_image == "mean+motion" else 0)


def name_masks(mask: MaskKind, window_image: WindowImage) -> str:
    """Return the name of these masks, e.g. ``rg+motion``; ``none`` without any."""
    if window_image != "mean+motion":
        return mask
    return "motion" if mask == "none" else f"{mask}+motion"


def show_window(
    blocks: Sequence[NDArray[np.uint8]], window_image: WindowImage
) -> NDArray[np.uint8]:
    """Return the picture of a window, uint8 (S, S, channels), from all of its blocks."""
    first, count = shown_blocks(0, len(blocks), window_image)
    shown = np.stack(blocks[first : first + count])
    picture = np.empty((*shown.shape[1:3], count_channels(window_image)), dtype=np.uint8)
    paint_window(shown, picture)
    return picture


def paint_window(blocks: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write the picture of a window.

    Args:
        blocks: Its shown blocks, RGB (N, S, S, 3); left in an undefined state.
        out: Receives their mean and, if it has a fourth channel, their motion, (S, S, channels).
    """
    if out.shape[2] == 3:
        mean_of_blocks(blocks, out)
        return
    out[..., 3] = motion_of_blocks(blocks)
    # arithmetic on three bytes of four takes twice as long as this copy
    mean = mean_of_blocks(blocks, np.empty(blocks.shape[1:], dtype=np.uint8))
    for channel in range(3):
        out[..., channel] = mean[..., channel]


def motion_of_blocks(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute where blocks (N, S, S, 3) differ from the next ones, uint8 (S, S); 0 for one block.

    It is the mean over neighbouring blocks of the largest absolute difference of a colour, rounded
    half up: the accumulative difference picture of Jain and Nagel (IEEE TPAMI 1(2), 1979) without
    its threshold. Differences of frames tell actions apart as input of a network ("RGB difference"
    of Temporal Segment Networks, arXiv:1608.00859).
    """
    total = np.zeros(blocks.shape[1:3], dtype=np.uint32)
    for one, other in itertools.pairwise(blocks):
        difference = np.maximum(one, other) - np.minimum(one, other)
        red, green, blue = np.moveaxis(difference, -1, 0)
        total += np.maximum(np.maximum(red, green), blue)
    num_pairs = max(len(blocks) - 1, 1)
    return ((total + num_pairs // 2) // num_pairs).astype(np.uint8)


def mean_of_blocks(
    blocks: NDArray[np.uint8], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Average blocks (N, H, W, 3) to (H, W, 3), each value rounded half up.

    Args:
        blocks: Left in an undefined state when ``out`` is given.
        out: Receives the mean, uint8 (H, W, 3); fresh memory costs as much as the arithmetic.
    """
    if out is None:
        return mean_of_blocks(blocks.copy(), np.empty(blocks.shape[1:], dtype=np.uint8))
    if len(blocks) == 1:
        np.copyto(out, blocks[0])
    elif len(blocks) == 2:
        a, b = blocks
        # exact (a + b + 1) // 2 = (a | b) - ((a ^ b) >> 1) without leaving uint8: twice as fast as
        # a sum in uint16
        np.bitwise_or(a, b, out=out)
        np.bitwise_xor(a, b, out=b)
        np.right_shift(b, 1, out=b)
        np.subtract(out, b, out=out)
    else:
        total = blocks.sum(axis=0, dtype=np.uint32)
        out[:] = (total + len(blocks) // 2) // len(blocks)
    return out
