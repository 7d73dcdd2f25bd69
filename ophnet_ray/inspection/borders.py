"""Black borders around the pictures of a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BLACK = 32
"""Brightest value of a black pixel: studio black is 16, and a codec adds noise."""
DARK_SHARE = 0.995
"""Share of black pixels in a row or a column of a border."""


@dataclass(frozen=True, slots=True)
class Borders:
    """Pixels of black at each side of an upright picture of this height and width."""

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    @property
    def share(self) -> float:
        """Share of the picture that is border."""
        inner = (self.height - self.top - self.bottom) * (self.width - self.left - self.right)
        return 1 - inner / (self.height * self.width)

    @property
    def crop(self) -> str:
        """Argument of FFmpeg's filter ``crop`` that removes the borders; even, as YUV needs it."""
        left, top = -(-self.left // 2) * 2, -(-self.top // 2) * 2
        width = (self.width - left - self.right) // 2 * 2
        height = (self.height - top - self.bottom) // 2 * 2
        return f"{width}:{height}:{left}:{top}"


def find_borders(pictures: Sequence[NDArray[np.uint8]]) -> Borders | None:
    """Find the borders that all pictures have in common.

    Args:
        pictures: Upright RGB pictures, uint8 (H, W, 3), all of one size.

    Returns:
        None if no picture shows anything.
    """
    black = [picture.max(axis=2) <= MAX_BLACK for picture in pictures]
    shown = [mask for mask in black if mask.mean() < DARK_SHARE]
    if not shown or len({mask.shape for mask in shown}) > 1:
        return None
    common = np.logical_and.reduce(shown)
    rows = np.flatnonzero(common.mean(axis=1) < DARK_SHARE)
    columns = np.flatnonzero(common.mean(axis=0) < DARK_SHARE)
    if not len(rows) or not len(columns):
        return None
    height, width = common.shape
    return Borders(
        top=int(rows[0]),
        bottom=height - 1 - int(rows[-1]),
        left=int(columns[0]),
        right=width - 1 - int(columns[-1]),
        height=height,
        width=width,
    )
