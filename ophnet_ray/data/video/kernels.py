"""Compiled arithmetic of the decode stage: add frames, resize their sum.

Each call of a library passes over a whole frame, and memory of that size costs more than
arithmetic. Here, frames are converted and added in one pass, to a sum that keeps separate only the
rows that the mean needs separate.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy import float32, int16, int32, uint16
from numpy.typing import NDArray

from ophnet_ray.data.video.jit import Compiled

Shares = tuple[NDArray[np.int32], NDArray[np.float32]]
Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class RowBands:
    """Grouping of a frame's rows, and the shares of groups and columns in its mean.

    A band is a set of consecutive rows that are added into one row of the sum, since one row of the
    mean covers them all. A row that two rows of the mean share is a band of its own. Each frame
    then passes over less memory: a mean of 224 rows needs 440 bands for 1080 rows.

    ``shape``: height and width of a frame; ``size``: that of the mean (S, S); ``rows``: (H,),
    ascending from 0, the band of each row; ``row_shares`` and ``column_shares``: see
    ``_share_out``.
    """

    shape: tuple[int, int]
    size: int
    rows: NDArray[np.int32]
    row_shares: Shares
    column_shares: Shares

    @property
    def sum_shape(self) -> tuple[int, int, int]:
        """Shape of the sum, (3, B, W) for B bands."""
        return 3, int(self.rows[-1]) + 1, self.shape[1]

    def empty_sum(self) -> NDArray[np.uint16]:
        """Return zeros of ``sum_shape``, to which frames are added.

        They are aligned to the lines of the processor's cache: a vector in two lines is slow.
        """
        line = 64 // np.dtype(np.uint16).itemsize
        size = math.prod(self.sum_shape)
        memory = np.zeros(size + line, dtype=np.uint16)
        start = -memory.ctypes.data % 64 // memory.itemsize
        return memory[start : start + size].reshape(self.sum_shape)


@lru_cache(maxsize=16)
def plan_bands(shape: tuple[int, int], size: int, max_frames: int) -> RowBands:
    """Plan the sum of up to ``max_frames`` frames, so that none of its values overflows.

    Args:
        shape: Height and width of a frame.
        size: Height and width of the mean, at least 8.
        max_frames: Maximum number of frames, 1 to 257.

    Raises:
        ValueError: A number is out of range: compiled code would go past its arrays.
    """
    if size < 8 or not 1 <= max_frames <= 257:
        raise ValueError(f"a mean of {max_frames} frames at {size} pixels cannot be planned")
    height, width = shape
    max_rows = np.iinfo(np.uint16).max // (255 * max_frames)
    if min(shape) < size:  # such a frame is enlarged whole
        max_rows = 1
    starts = [0]
    for row in range(1, height):
        part = row * size // height  # of the mean: the row that this one's upper edge lies in
        is_inside = (row + 1) * size <= (part + 1) * height and starts[-1] * size >= part * height
        if not is_inside or row - starts[-1] == max_rows:
            starts.append(row)
    edges = np.array([*starts, height])
    rows = np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(edges))
    columns = np.arange(width + 1)
    return RowBands(shape, size, rows, _share_out(edges, size), _share_out(columns, size))


def _share_out(edges: NDArray[np.int64], size: int) -> Shares:
    """Compute the shares of neighbouring sums of pixels in each of ``size`` equal parts.

    Args:
        edges: Starts of the sums and the end of the last one, ascending from 0, pixels.
        size: Number of parts.

    Returns:
        The index of the first sum of each part (size,), and the shares of it and of the next sums
        in the part's mean (T, size), 0 for sums outside.
    """
    length = edges[-1]
    scaled, part = edges * size, np.arange(size) * length  # in pixels / size, to be exact
    first = np.searchsorted(scaled, part, side="right") - 1
    taps = int((np.searchsorted(scaled, part + length) - first).max())
    first = np.minimum(first, len(edges) - 1 - taps)
    sums = first + np.arange(taps)[:, None]
    overlap = np.minimum(scaled[sums + 1], part + length) - np.maximum(scaled[sums], part)
    shares = overlap.clip(0) / (length * np.diff(edges)[sums])
    return first.astype(np.int32), shares.astype(np.float32)


@Compiled
def add_yuv420(
    total: NDArray[np.uint16],
    rows: NDArray[np.int32],
    frames: tuple[Planes, Planes],
    factors: NDArray[np.int16],
) -> None:
    """Convert two frames to RGB and add them, row by row.

    Equal bit for bit to FFmpeg's conversion on x86 (its ``yuv_2_rgb.asm``): each product is cut to
    its upper 16 bits, the four pixels of a chroma sample share it, the result is clipped. Two
    frames per call halve the passes over the sum.

    Args:
        total: (3, B, W), W even.
        rows: (H,), H even: the row of ``total`` (the band) to which each row is added.
        frames: Y (H, W or more), U and V (H / 2, W / 2 or more) of each, rows as the decoder
            aligns them.
        factors: Black of ``y`` in eighths; then times 2^13: the factor of ``y``, of ``v`` to red,
            of ``u`` and of ``v`` to green, of ``u`` to blue. See ``planes.yuv_factors``.
    """
    width = total.shape[2]
    black, y_all, v_red, u_green, v_green, u_blue = factors
    low, high = int16(0), int16(255)
    green_of_u = np.empty(width // 2, int16)
    red, red_2 = np.empty(width, int16), np.empty(width, int16)
    green, green_2 = np.empty(width, int16), np.empty(width, int16)
    blue, blue_2 = np.empty(width, int16), np.empty(width, int16)
    colours = (red, green, blue), (red_2, green_2, blue_2)
    for row in range(len(rows)):
        to = rows[row]
        if row % 2 == 0:
            for k in range(2):
                _, u, v = frames[k]
                of_red, of_green, of_blue = colours[k]
                # the casts, and a loop for u and one for v, keep the compiler to 16 bits, where a
                # vector holds most values
                for i in range(width // 2):
                    a = int16(int16(u[row // 2, i] << 3) - int16(1024))
                    green_of_u[i] = int16(int32(int32(a) * int32(u_green)) >> 16)
                    value = int16(int32(int32(a) * int32(u_blue)) >> 16)
                    of_blue[2 * i] = of_blue[2 * i + 1] = value
                for i in range(width // 2):
                    b = int16(int16(v[row // 2, i] << 3) - int16(1024))
                    value = int16(int32(int32(b) * int32(v_red)) >> 16)
                    of_red[2 * i] = of_red[2 * i + 1] = value
                    value = int16(green_of_u[i] + int16(int32(int32(b) * int32(v_green)) >> 16))
                    of_green[2 * i] = of_green[2 * i + 1] = value
        # written out: with a loop over the colours the compiler used no vectors
        y, y_2 = frames[0][0], frames[1][0]
        for x in range(width):
            light = int16(int16(y[row, x] << 3) - black)
            light = int16(int32(int32(light) * int32(y_all)) >> 16)
            light_2 = int16(int16(y_2[row, x] << 3) - black)
            light_2 = int16(int32(int32(light_2) * int32(y_all)) >> 16)
            total[0, to, x] += uint16(
                min(max(int16(light + red[x]), low), high)
                + min(max(int16(light_2 + red_2[x]), low), high)
            )
            total[1, to, x] += uint16(
                min(max(int16(light + green[x]), low), high)
                + min(max(int16(light_2 + green_2[x]), low), high)
            )
            total[2, to, x] += uint16(
                min(max(int16(light + blue[x]), low), high)
                + min(max(int16(light_2 + blue_2[x]), low), high)
            )


@Compiled
def add_rgb(total: NDArray[np.uint16], rows: NDArray[np.int32], pixels: NDArray[np.uint8]) -> None:
    """Add RGB pixels (H, W, 3) to ``total`` (3, B, W); ``rows`` as in ``add_yuv420``."""
    for row in range(len(rows)):
        to = rows[row]
        for x in range(total.shape[2]):
            total[0, to, x] += uint16(pixels[row, x, 0])
            total[1, to, x] += uint16(pixels[row, x, 1])
            total[2, to, x] += uint16(pixels[row, x, 2])


def resize_mean(total: NDArray[np.uint16], bands: RowBands, count: int) -> NDArray[np.uint8]:
    """Turn the sum of ``count`` frames into their mean at the size of ``bands``, rounded half up.

    Each pixel is the mean of the area that it covers (OpenCV's ``INTER_AREA``).

    Args:
        total: The sum, (3, B, W).
        bands: Grouping of its rows.
        count: Number of frames, at least 1.

    Returns:
        uint8 (S, S, 3).
    """
    size = bands.size
    if min(bands.shape) < size:  # enlarging: OpenCV interpolates
        mean = np.moveaxis(total, 0, -1).astype(np.float32) / count
        enlarged = cv2.resize(mean, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(enlarged + 0.5, dtype=np.uint8)
    first_row, row_shares = bands.row_shares
    row_shares = row_shares / np.float32(count)
    small = np.empty((size, size, 3), dtype=np.uint8)
    lines = np.empty((3, 8, bands.shape[1]), dtype=np.float32)
    for row in [
        *range(0, size - 8, 8),
        size - 8,
    ]:  # eight rows per call; the last call repeats some
        _shrink_columns(total, first_row[row : row + 8], row_shares[:, row : row + 8], lines)
        _shrink_rows(lines, *bands.column_shares, small[row : row + 8])
    return small


@Compiled
def _shrink_columns(
    total: NDArray[np.uint16],
    first: NDArray[np.int32],
    shares: NDArray[np.float32],
    lines: NDArray[np.float32],
) -> None:
    """Fill ``lines`` (3, N, W) with the sums of T rows from ``first`` on, by shares (T, N)."""
    for channel, i in np.ndindex(lines.shape[:2]):
        line = lines[channel, i]
        line[:] = 0
        for tap in range(len(shares)):
            share, row = shares[tap, i], total[channel, first[i] + tap]
            for x in range(len(line)):
                line[x] += share * float32(row[x])


@Compiled
def _shrink_rows(
    lines: NDArray[np.float32],
    first: NDArray[np.int32],
    shares: NDArray[np.float32],
    small: NDArray[np.uint8],
) -> None:
    """Fill ``small`` (8, S, 3) with sums of columns of ``lines`` (3, 8, W), rounded half up."""
    channels, _, width = lines.shape
    size, taps = len(first), len(shares)
    # eight rows side by side: the columns of a single row would be gathered one by one
    columns, mean = np.empty((width, 8), float32), np.empty((size, 8), float32)
    for channel in range(channels):
        for x in range(width):
            for i in range(8):
                columns[x, i] = lines[channel, i, x]
        for x in range(size):
            part = columns[first[x] : first[x] + taps]
            mean[x] = float32(0.5)
            for tap in range(taps):
                share = shares[tap, x]
                for i in range(8):
                    mean[x, i] += share * part[tap, i]
            for i in range(8):
                small[i, x, channel] = np.uint8(mean[x, i])
