"""Pixels of a decoded frame, as YUV planes or as RGB, and their sums."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.video.kernels import Planes, add_rgb, add_yuv420

# shares of red and blue in Y (K_R and K_B of ITU-T H.273), by the number of the matrix
_BT601 = (0.299, 0.114)
_MATRICES = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


class Picture(Protocol):
    """A frame that can be summed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    def add_to(self, total: NDArray[np.uint16], rows: NDArray[np.int32]) -> None:
        """Add the RGB values to (3, B, W); ``rows`` (H,) is the row of ``total`` for each row."""

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return the pixels as RGB, uint8 (H, W, 3)."""


@dataclass(frozen=True, slots=True)
class RgbPicture:
    """A picture in RGB; ``pixels``: uint8 (H, W, 3)."""

    pixels: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def add_to(self, total: NDArray[np.uint16], rows: NDArray[np.int32]) -> None:
        """Add the RGB values; see ``Picture.add_to``."""
        add_rgb(total, rows, self.pixels)

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return the pixels as RGB, uint8 (H, W, 3)."""
        return self.pixels


@dataclass(frozen=True, slots=True)
class Yuv420Picture:
    """Planes of 8 bits with a quarter of the chroma, as nearly all surgery is stored.

    Not interlaced: fields have chroma rows of their own.

    Args:
        planes: Y (H, W or more), U and V (H / 2, W / 2 or more), rows as the decoder aligns them.
        shape: Height and width, both even.
        factors: See ``yuv_factors``.
    """

    planes: Planes
    shape: tuple[int, int]
    factors: NDArray[np.int16]

    def add_to(self, total: NDArray[np.uint16], rows: NDArray[np.int32]) -> None:
        """Add the RGB values; see ``Picture.add_to``."""
        black = _black_planes(self.shape, int(self.factors[0]) // 8)  # adds nothing
        add_yuv420(total, rows, (self.planes, black), self.factors)

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return the pixels as RGB, uint8 (H, W, 3)."""
        total = np.zeros((3, *self.shape), dtype=np.uint16)
        self.add_to(total, np.arange(self.shape[0], dtype=np.int32))
        return np.moveaxis(total, 0, -1).astype(np.uint8, order="C")


def add_pair(
    one: Picture, two: Picture, total: NDArray[np.uint16], rows: NDArray[np.int32]
) -> None:
    """Add two pictures of one shape as ``Picture.add_to`` does, in one pass where possible."""
    if (
        isinstance(one, Yuv420Picture)
        and isinstance(two, Yuv420Picture)
        and one.factors is two.factors
    ):
        add_yuv420(total, rows, (one.planes, two.planes), one.factors)
    else:
        one.add_to(total, rows)
        two.add_to(total, rows)


@lru_cache(maxsize=4)
def _black_planes(shape: tuple[int, int], black: int) -> Planes:
    height, width = shape
    y = np.full((height, width), black, dtype=np.uint8)
    chroma = np.full((height // 2, width // 2), 128, dtype=np.uint8)
    return y, chroma, chroma


@lru_cache
def yuv_factors(matrix: int, *, is_full_range: bool) -> NDArray[np.int16]:
    """Return the factors that convert YUV to RGB, for ``kernels.add_yuv420``.

    Args:
        matrix: Number of the matrix in ITU-T H.273; an unknown one is taken for BT.601.
        is_full_range: Y from 0 to 255 rather than 16 to 235, U and V from 0 rather than 16 to 240.

    Returns:
        (6,): black of Y in eighths; then times 2^13: the factor of Y, of V to red, of U and of V to
        green, of U to blue.
    """
    red, blue = _MATRICES.get(matrix, _BT601)
    light, chroma = (1.0, 1.0) if is_full_range else (255 / 219, 255 / 224)
    green = 1 - red - blue
    factors = [
        light,
        2 * (1 - red) * chroma,
        -2 * blue * (1 - blue) / green * chroma,
        -2 * red * (1 - red) / green * chroma,
        2 * (1 - blue) * chroma,
    ]
    black = 0 if is_full_range else 8 * 16
    return np.array([black, *np.round(8192 * np.array(factors))], dtype=np.int16)
