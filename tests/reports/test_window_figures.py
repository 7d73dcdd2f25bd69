"""Figures of windows: each where its caption says, also with many phases and without windows."""

import re
from html import unescape

import cv2
import numpy as np
import pytest

from ophnet_ray.reports.figures import to_pixels, to_svg
from ophnet_ray.reports.window_figures import draw_batch, draw_contact_sheet, to_jpeg

pytestmark = pytest.mark.unit

RED, BLUE = (np.full((64, 64, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 200)))


def texts_of(figure):
    svg = to_svg(figure, "key", "title")
    return [unescape(text.strip()) for text in re.findall(r"<text[^>]*>([^<]+)</text>", svg)]


def count(pixels, picture):
    return int((pixels == picture[0, 0]).all(-1).sum())


def test_a_batch_shows_each_window_with_its_lines():
    captions = [["cut"], ["30% cut", "70% sew"], ["sew"]]
    figure = draw_batch([RED, BLUE, RED], captions)
    assert texts_of(figure) == ["cut", "30% cut", "70% sew", "sew"]
    pixels = to_pixels(figure)
    assert (count(pixels, RED), count(pixels, BLUE)) == (2 * 128 * 128, 128 * 128)


def test_a_contact_sheet_names_every_phase_also_one_without_windows():
    phases = {f"phase {i}": [RED] * 4 for i in range(51)} | {"a rare phase": []}
    figure = draw_contact_sheet(phases)
    assert texts_of(figure) == [*phases, "no training window"]
    pixels = to_pixels(figure)
    assert count(pixels, RED) == 51 * 4 * 80 * 80
    assert pixels.shape[1] < 1100
    assert len(to_jpeg(pixels)) < 1_000_000


def test_a_long_name_does_not_reach_the_next_phase():
    long = "Phase of a rare step of a combined operation, in the words of its annotators" * 2
    short = texts_of(draw_contact_sheet({long: [RED] * 4, "other": [BLUE]}))[0]
    assert len(short) < 55
    assert short.endswith("…")


@pytest.mark.parametrize("figure", [draw_batch([], []), draw_contact_sheet({})])
def test_nothing_to_draw_is_an_empty_figure(figure):
    assert to_pixels(figure).size > 0


def test_a_jpeg_keeps_the_colours():
    read = cv2.imdecode(np.frombuffer(to_jpeg(RED), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(read[..., ::-1].mean((0, 1)), (200, 0, 0), atol=3)
