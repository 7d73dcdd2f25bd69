"""Figures of windows: an augmented training batch, and windows of each phase as they are stored."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ophnet_ray.reports.figures import FONT_PX, INK, MUTED, new_figure, shorten, text_width

GAP_PX = 6
LINE_PX = 16
BATCH_PX, BATCH_COLUMNS = 128, 8
SHEET_PX, SHEET_COLUMNS = 80, 3
"""Size of a window in each figure, and windows or phases per row."""


class _Tile(NamedTuple):
    """A window and the position of its upper left corner, pixels."""

    left: int
    top: int
    picture: NDArray[np.uint8]


class _Text(NamedTuple):
    """A line of text and the position of its upper left corner, pixels."""

    left: int
    top: int
    text: str
    color: str = INK


def draw_batch(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[Sequence[str]]) -> Figure:
    """Draw windows side by side.

    Args:
        pictures: uint8 RGB (S, S, 3).
        captions: Lines of text below each.
    """
    num_lines = max(map(len, captions), default=0)
    width, height = BATCH_PX + GAP_PX, BATCH_PX + GAP_PX + LINE_PX * num_lines
    tiles, texts = [], []
    for i, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(i, BATCH_COLUMNS)
        tiles.append(_Tile(column * width, row * height, _resize(picture, BATCH_PX)))
        for j, line in enumerate(lines):
            top = row * height + BATCH_PX + 2 + j * LINE_PX
            texts.append(_Text(column * width, top, _fit(line, BATCH_PX)))
    return _draw(tiles, texts)


def draw_contact_sheet(windows: Mapping[str, Sequence[NDArray[np.uint8]]]) -> Figure:
    """Draw the windows of each phase under its name.

    Args:
        windows: Pictures, uint8 RGB (S, S, 3), by phase.
    """
    step = SHEET_PX + 2
    most = max(map(len, windows.values()), default=0)
    width, height = max(most, 1) * step + 2 * GAP_PX, LINE_PX + SHEET_PX + GAP_PX
    tiles, texts = [], []
    for i, (phase, pictures) in enumerate(windows.items()):
        row, column = divmod(i, SHEET_COLUMNS)
        left, top = column * width, row * height
        texts.append(_Text(left, top, _fit(phase, width - 2 * GAP_PX)))
        if not pictures:
            texts.append(_Text(left, top + LINE_PX, "no training window", MUTED))
        for j, picture in enumerate(pictures):
            tiles.append(_Tile(left + j * step, top + LINE_PX, _resize(picture, SHEET_PX)))
    return _draw(tiles, texts)


def _draw(tiles: Sequence[_Tile], texts: Sequence[_Text]) -> Figure:
    """Draw windows pixel by pixel, and texts; the figure is as large as they need."""
    ends = [(tile.left + len(tile.picture), tile.top + len(tile.picture)) for tile in tiles]
    ends += [(int(t.left + text_width(t.text)) + 1, t.top + LINE_PX) for t in texts]
    width = max((right for right, _ in ends), default=1) + 2 * GAP_PX
    height = max((bottom for _, bottom in ends), default=1) + 2 * GAP_PX
    figure = new_figure(width, height)
    for tile in tiles:
        bottom = height - GAP_PX - tile.top - len(tile.picture)
        figure.figimage(tile.picture, GAP_PX + tile.left, bottom, origin="upper")
    for text in texts:
        figure.text(
            (GAP_PX + text.left) / width,
            1 - (GAP_PX + text.top) / height,
            text.text,
            color=text.color,
            fontsize=FONT_PX,
            va="top",
        )
    return figure


def _fit(text: str, width: int) -> str:
    """Cut a text to a width in pixels."""
    return shorten(text, max(int(width / text_width("x")), 2))


def _resize(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    shrinks = size < len(picture)
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how), dtype=np.uint8)


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return RGB pixels, uint8 (H, W, 3), as a JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    return content.tobytes()
