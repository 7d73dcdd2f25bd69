"""The arithmetic of the decode stage, compiled: frames are added at full size, sums are resized.

A library's calls each go over a whole frame, and memory of that size costs more than arithmetic:
here a frame is converted and added in one pass.
"""

import logging
import pickle
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, ParamSpec

import cv2
import numpy as np
from numpy import float32, int16, int32, uint16
from numpy.typing import NDArray

P = ParamSpec("P")

logger = logging.getLogger(__name__)


class _Compiled(Generic[P]):
    """A function that is compiled at its first call: few processes decode, and numba loads slowly.

    The code is kept in the user's cache folder, or beside this file where there is none.
    """

    def __init__(self, function: Callable[P, None]) -> None:
        self._function = function
        self._code: Any = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the compiled function."""
        if self._code is None:
            self._code = self._compile()
        try:
            self._code(*args, **kwargs)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            # before the function begins: what was kept is damaged, or cannot be kept (a full disk)
            logger.warning("compiled code is not kept (%r): it is compiled again", error)
            self._code = self._compile(keep=False)
            self._code(*args, **kwargs)

    def _compile(self, *, keep: bool = True) -> Any:
        from numba import njit

        if keep:
            try:
                _choose_folder()
                return njit(cache=True, nogil=True)(self._function)
            except RuntimeError:  # no home, or no folder that can be written
                pass
        return njit(nogil=True)(self._function)


def _choose_folder() -> None:
    """Let numba keep code apart by processor and source: its list of what it keeps has no lock.

    Raises:
        RuntimeError: The user has no home.
    """
    from llvmlite import binding
    from numba.core import config

    if not config.CACHE_DIR:  # type: ignore[attr-defined] # set by name, from the environment
        source = blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()
        kept = Path.home() / ".cache/ophnet-ray" / f"{binding.get_host_cpu_name()}-{source}"
        config.CACHE_DIR = str(kept)  # type: ignore[attr-defined]


@_Compiled
def add_yuv420(
    total: NDArray[np.uint16],
    y: NDArray[np.uint8],
    u: NDArray[np.uint8],
    v: NDArray[np.uint8],
    factors: NDArray[np.int16],
) -> None:
    """Convert a frame to RGB and add it.

    Bit for bit what FFmpeg's conversion on x86 gives (its ``yuv_2_rgb.asm``): each product is cut
    to the upper 16 bits, the four pixels of a chroma sample share it, the result is clipped.

    Args:
        total: (3, H, W), H and W even.
        y: (H, W or more), rows as the decoder aligns them.
        u: (H / 2, W / 2 or more).
        v: As ``u``.
        factors: Black of ``y`` in eighths; then times 2^13: the factor of ``y``, of ``v`` to red,
            of ``u`` and of ``v`` to green, of ``u`` to blue. See ``pictures.yuv_factors``.
    """
    _, height, width = total.shape
    black, y_all, v_red, u_green, v_green, u_blue = factors
    red, green, blue = np.empty(width, int16), np.empty(width, int16), np.empty(width, int16)
    for row in range(height):
        if row % 2 == 0:
            for i in range(width // 2):
                # the casts keep the compiler to 16 bits, where a vector holds most values
                a = int16(int16(u[row // 2, i] << 3) - int16(1024))
                b = int16(int16(v[row // 2, i] << 3) - int16(1024))
                of_red = int16(int32(int32(b) * int32(v_red)) >> 16)
                of_green = int16(int32(int32(a) * int32(u_green)) >> 16)
                of_green = int16(of_green + int16(int32(int32(b) * int32(v_green)) >> 16))
                of_blue = int16(int32(int32(a) * int32(u_blue)) >> 16)
                red[2 * i] = red[2 * i + 1] = of_red
                green[2 * i] = green[2 * i + 1] = of_green
                blue[2 * i] = blue[2 * i + 1] = of_blue
        for x in range(width):
            light = int16(int16(y[row, x] << 3) - black)
            light = int16(int32(int32(light) * int32(y_all)) >> 16)
            total[0, row, x] += uint16(min(max(int16(light + red[x]), int16(0)), int16(255)))
            total[1, row, x] += uint16(min(max(int16(light + green[x]), int16(0)), int16(255)))
            total[2, row, x] += uint16(min(max(int16(light + blue[x]), int16(0)), int16(255)))


@_Compiled
def add_rgb(total: NDArray[np.uint16], pixels: NDArray[np.uint8]) -> None:
    """Add RGB pixels (H, W, 3) to ``total`` (3, H, W)."""
    _, height, width = total.shape
    for row in range(height):
        for x in range(width):
            total[0, row, x] += uint16(pixels[row, x, 0])
            total[1, row, x] += uint16(pixels[row, x, 1])
            total[2, row, x] += uint16(pixels[row, x, 2])


def resize_mean(total: NDArray[np.uint16], count: int, size: int) -> NDArray[np.uint8]:
    """The sum of ``count`` frames → their mean at (size, size), rounded half up.

    Each pixel is the mean of the area that it covers (OpenCV's ``INTER_AREA``).

    Args:
        total: (3, H, W).
        count: At least 1.
        size: Pixels.

    Returns:
        uint8 (size, size, 3).
    """
    _, height, width = total.shape
    if min(height, width) < size:  # enlarged: OpenCV interpolates
        mean = np.moveaxis(total, 0, -1).astype(np.float32) / count
        enlarged = cv2.resize(mean, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(enlarged + 0.5, dtype=np.uint8)
    small = np.empty((size, size, 3), dtype=np.uint8)
    _resize_area(total, count, *_area_weights(height, size), *_area_weights(width, size), small)
    return small


@lru_cache(maxsize=16)
def _area_weights(length: int, size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """What ``size`` equal parts of ``length`` pixels are made of.

    Returns:
        The first pixel of each part (size,), and the share that it and each of the next ones have
        in the part's mean (T, size), 0 for those outside.
    """
    taps = min(int(np.ceil(length / size)) + 1, length)
    edges = np.linspace(0, length, size + 1)
    first = np.minimum(edges[:-1].astype(np.int32), length - taps)
    pixels = first + np.arange(taps)[:, None]
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return first, np.asarray(overlap.clip(0) * (size / length), dtype=np.float32)


@_Compiled
def _resize_area(
    total: NDArray[np.uint16],
    count: int,
    first_row: NDArray[np.int32],
    row_weights: NDArray[np.float32],
    first_column: NDArray[np.int32],
    column_weights: NDArray[np.float32],
    small: NDArray[np.uint8],
) -> None:
    channels, _, width = total.shape
    size = len(small)
    line, mean = np.empty(width, float32), np.empty(size, float32)
    scale = float32(1 / count)
    for channel, row in np.ndindex(channels, size):
        line[:] = 0
        for tap in range(len(row_weights)):
            weight = row_weights[tap, row] * scale
            y = first_row[row] + tap
            for x in range(width):
                line[x] += weight * float32(total[channel, y, x])
        mean[:] = 0
        for tap in range(len(column_weights)):
            for x in range(size):
                mean[x] += column_weights[tap, x] * line[first_column[x] + tap]
        for x in range(size):
            small[row, x, channel] = np.uint8(mean[x] + float32(0.5))
