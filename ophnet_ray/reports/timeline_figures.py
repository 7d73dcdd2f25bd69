"""Phases of a video over time as ribbons: truth, models, smoothed, errors, confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ophnet_ray.metrics.segmental import find_stretches
from ophnet_ray.metrics.timelines import (
    NOT_ANNOTATED,
    TimelineSegment,
    VideoTimeline,
    label_accuracy,
    score_video,
)
from ophnet_ray.reports.figures import (
    ACCENT,
    BAD,
    DPI,
    FONT_PX,
    LINE,
    MUTED,
    add_axes,
    new_figure,
    phase_colors,
    shorten,
    text_color,
    text_width,
)
from ophnet_ray.reports.page import format_clock

LEFT_PX, PLOT_PX, RIGHT_PX = 104, 900, 16
RIBBON_PX, ERRORS_PX, CURVE_PX, GAP_PX = 24, 8, 44, 6
AXIS_PX = 24
TITLE_PX = 24
_NAME: dict[str, Any] = {"color": MUTED, "fontsize": FONT_PX}


@dataclass(frozen=True)
class _Row:
    """The place of a row: its axes, its top and height in pixels, and its length in seconds."""

    plane: Axes
    top_px: float
    height_px: float
    end_s: float

    def place(self, segment: TimelineSegment) -> tuple[float, float]:
        """Return the pixels at which a segment starts and ends."""
        scale = PLOT_PX / self.end_s
        return segment.start_s * scale, segment.end_s * scale

    def draw_bars(self, segments: Sequence[TimelineSegment], color: str) -> None:
        """Draw a bar of the row's height for each segment."""
        places = [self.place(segment) for segment in segments]
        bars = [(start_px, end_px - start_px) for start_px, end_px in places]
        self.plane.broken_barh(bars, (self.top_px, self.height_px), color=color, linewidth=0)


def draw_timeline(timeline: VideoTimeline, phases: Sequence[str]) -> Figure:
    """Draw the ribbons of one video, with at most one time per pixel.

    The times between pixels are left out of the drawing only; scores count all times.

    Args:
        timeline: Labels of the video.
        phases: Name of each label.
    """
    end_s = score_video(timeline).duration_s
    shown = _choose_times(len(timeline.times_s))
    edges_s = np.append(timeline.times_s[shown], end_s)
    model = "prediction" if timeline.frame_model is None else "temporal model"
    rows = {
        "truth": timeline.truth,
        "frame model": timeline.frame_model,
        model: timeline.prediction,
        "smoothed": timeline.smoothed,
    }
    ribbons = {name: labels[shown] for name, labels in rows.items() if labels is not None}
    heights = [RIBBON_PX] * len(ribbons) + [ERRORS_PX] * ("truth" in ribbons) + [CURVE_PX]
    total_px = sum(heights) + GAP_PX * len(heights)
    figure = new_figure(LEFT_PX + PLOT_PX + RIGHT_PX, total_px + AXIS_PX)
    plane = _add_plane(figure)
    top_px = 2.0
    for name, labels in ribbons.items():
        row = _add_row(plane, name, top_px, RIBBON_PX, end_s)
        _draw_ribbon(row, _cut_segments(labels, edges_s), phases)
        top_px += RIBBON_PX + GAP_PX
    if "truth" in ribbons:
        row = _add_row(plane, "errors", top_px, ERRORS_PX, end_s)
        _draw_errors(row, ribbons["truth"], ribbons.get("smoothed", ribbons[model]), edges_s)
        top_px += ERRORS_PX + GAP_PX
    _add_row(plane, "confidence", top_px, CURVE_PX, end_s)
    axes = _add_clock(figure, top_px, CURVE_PX, end_s)
    axes.stairs(timeline.confidence[shown], edges_s, fill=True, color=ACCENT, alpha=0.35)
    axes.set_yticks([0, 1])
    axes.tick_params(axis="y", labelleft=False, labelright=True, length=0, pad=2)
    axes.grid(visible=True, axis="x", color=LINE, linewidth=0.6)
    return figure


def draw_model_ribbons(
    times_s: NDArray[np.float64],
    truth: NDArray[np.int64],
    labels: Mapping[str, NDArray[np.int64]],
    phases: Sequence[str],
) -> Figure:
    """Draw the truth of a video above the labels of several models, each with its errors below.

    Args:
        times_s: Ascending frame times (N,).
        truth: (N,), ``NOT_ANNOTATED`` between segments.
        labels: (N,) of each model, by a short name.
        phases: Name of each label.
    """
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
    end_s = float(times_s[-1] + step_s)
    shown = _choose_times(len(times_s))
    edges_s = np.append(times_s[shown], end_s)
    model_px = RIBBON_PX + ERRORS_PX + 2 * GAP_PX
    height_px = RIBBON_PX + GAP_PX + model_px * len(labels) + AXIS_PX
    figure = new_figure(LEFT_PX + PLOT_PX + RIGHT_PX, height_px)
    plane = _add_plane(figure)
    row = _add_row(plane, "truth", 2.0, RIBBON_PX, end_s)
    _draw_ribbon(row, _cut_segments(truth[shown], edges_s), phases)
    top_px = 2.0 + RIBBON_PX + GAP_PX
    for name, own in labels.items():
        row = _add_row(plane, name, top_px, RIBBON_PX, end_s)
        _draw_ribbon(row, _cut_segments(own[shown], edges_s), phases)
        row = _add_row(plane, "errors", top_px + RIBBON_PX + GAP_PX, ERRORS_PX, end_s)
        _draw_errors(row, truth[shown], own[shown], edges_s)
        top_px += model_px
    _add_clock(figure, top_px - model_px + RIBBON_PX + GAP_PX, ERRORS_PX, end_s)
    return figure


def draw_window_ribbons(
    cases: Sequence[tuple[str, NDArray[np.int64], NDArray[np.int64]]], phases: Sequence[str]
) -> Figure:
    """Draw truth above prediction for the windows of each case, in the order of the windows.

    Args:
        cases: Name, labels (N,) and predictions (N,) of each case.
        phases: Name of each label.
    """
    case_px = TITLE_PX + 2 * RIBBON_PX + 4
    figure = new_figure(LEFT_PX + PLOT_PX + RIGHT_PX, case_px * max(len(cases), 1) + AXIS_PX)
    plane = _add_plane(figure)
    for index, (name, truth, prediction) in enumerate(cases):
        edges = np.arange(len(truth) + 1, dtype=np.float64)
        case_top_px = case_px * index
        accuracy = label_accuracy(truth, prediction) or 0.0
        text = f"{shorten(name, 60)}: {len(truth)} windows, {100 * accuracy:.0f} % right"
        plane.text(0, case_top_px + TITLE_PX - 5, text, va="baseline", **_NAME)
        for number, (title, labels) in enumerate((("truth", truth), ("prediction", prediction))):
            top_px = case_top_px + TITLE_PX + (RIBBON_PX + 2) * number
            row = _add_row(plane, title, top_px, RIBBON_PX, len(truth))
            _draw_ribbon(row, _cut_segments(labels, edges), phases)
    return figure


def _choose_times(num_times: int) -> NDArray[np.int64]:
    """Return the indices of at most ``PLOT_PX`` times, evenly spaced."""
    num_shown = min(num_times, PLOT_PX)
    return np.unique(np.linspace(0, num_times - 1, num_shown).round().astype(np.int64))


def _cut_segments(labels: NDArray[np.int64], edges_s: NDArray[np.float64]) -> list[TimelineSegment]:
    """Cut labels (N,), each shown between two of the N + 1 edges, into segments of one label."""
    return [
        TimelineSegment(float(edges_s[start]), float(edges_s[stop]), int(label))
        for label, start, stop in zip(*find_stretches(labels), strict=True)
    ]


def _add_plane(figure: Figure) -> Axes:
    """Add axes without a frame over all rows, in pixels: x from their left edge, y downwards.

    Axes are most of the work of a figure: rows share these.
    """
    height_px = float(figure.get_size_inches()[1] * DPI)
    left, width = (part / (LEFT_PX + PLOT_PX + RIGHT_PX) for part in (LEFT_PX, PLOT_PX))
    plane = figure.add_axes((left, 0, width, 1), xlim=(0, PLOT_PX), ylim=(height_px, 0))
    plane.set_axis_off()
    return plane


def _add_row(plane: Axes, name: str, top_px: float, height_px: float, end_s: float) -> _Row:
    """Add a row, from 0 s to the end, with its name on the left."""
    plane.text(-10, top_px + height_px / 2, name, ha="right", va="center", **_NAME)
    return _Row(plane, top_px, height_px, max(end_s, 1e-9))


def _add_clock(figure: Figure, top_px: float, height_px: float, end_s: float) -> Axes:
    """Add axes from 0 s to the end with the time below; returns them, y from 0 to 1."""
    below_px = float(figure.get_size_inches()[1] * DPI) - top_px - height_px
    axes = add_axes(figure, LEFT_PX, top_px, RIGHT_PX, below_px)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set(xlim=(0, max(end_s, 1e-9)), ylim=(0, 1), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_clock(seconds)))
    return axes


def _draw_ribbon(row: _Row, segments: Sequence[TimelineSegment], phases: Sequence[str]) -> None:
    """Draw one ribbon; a segment shows the name of its phase if the name fits."""
    colors = phase_colors(len(phases))
    for label in sorted({segment.label for segment in segments}):
        row.draw_bars([each for each in segments if each.label == label], colors[label])
    for segment in segments:
        start_px, end_px = row.place(segment)
        name = shorten(phases[segment.label], 28)
        if text_width(name, 10) <= end_px - start_px - 6:
            row.plane.text(
                (start_px + end_px) / 2,
                row.top_px + 0.52 * row.height_px,
                name,
                ha="center",
                va="center",
                fontsize=10,
                color=text_color(colors[segment.label]),
            )


def _draw_errors(
    row: _Row, truth: NDArray[np.int64], final: NDArray[np.int64], edges_s: NDArray[np.float64]
) -> None:
    """Draw a bar wherever the final label differs from an annotated one."""
    is_wrong = (truth != NOT_ANNOTATED) & (truth != final)
    row.draw_bars(_cut_segments(np.where(is_wrong, 0, -1), edges_s), BAD)
    middle_px = row.top_px + row.height_px / 2
    row.plane.hlines(middle_px, 0, PLOT_PX, colors=LINE, linewidth=0.6, zorder=0)
