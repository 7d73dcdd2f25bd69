"""The phases of a video over time as ribbons: truth, prediction, smoothed, errors, confidence."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ophnet_ray.metrics.score_card import VideoTimeline
from ophnet_ray.reports.figures import (
    ACCENT,
    BAD,
    FONT_PX,
    LINE,
    MUTED,
    add_axes,
    new_figure,
    phase_colors,
    short,
    text_color,
    text_width,
)
from ophnet_ray.reports.page import format_clock

LEFT, PLOT, RIGHT = 84, 900, 16
ROW, GAP = 24, 6
CURVE = 44


class VideoScore(NamedTuple):
    """How right a video's timeline is; accuracies over its annotated times, None without any."""

    video_id: str
    duration_s: float
    accuracy: float | None
    smoothed_accuracy: float | None
    mean_confidence: float
    num_phases: int

    @property
    def final(self) -> float:
        """What videos are ranked by: accuracy, or confidence where nothing is annotated."""
        if self.smoothed_accuracy is not None:
            return self.smoothed_accuracy
        return self.mean_confidence if self.accuracy is None else self.accuracy


def score_video(timeline: VideoTimeline) -> VideoScore:
    """Count the times at which a timeline is right."""
    final = timeline.prediction if timeline.smoothed is None else timeline.smoothed
    return VideoScore(
        timeline.video_id,
        float(timeline.times_s[-1] + _step(timeline.times_s)) if len(timeline.times_s) else 0.0,
        _accuracy(timeline.truth, timeline.prediction),
        None if timeline.smoothed is None else _accuracy(timeline.truth, timeline.smoothed),
        float(timeline.confidence.mean()) if len(timeline.confidence) else 0.0,
        len(np.unique(final[final >= 0])),
    )


def _accuracy(truth: NDArray[np.int64] | None, prediction: NDArray[np.int64]) -> float | None:
    if truth is None or not (truth >= 0).any():
        return None
    annotated = truth >= 0
    return float((prediction[annotated] == truth[annotated]).mean())


def find_runs(
    labels: NDArray[np.int64], starts_s: NDArray[np.float64], end_s: float
) -> list[tuple[int, float, float]]:
    """Merge equal neighbours: (label, start, end) in seconds, without the labels below 0."""
    if not len(labels):
        return []
    first = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1))
    edges = [*starts_s[first].tolist(), end_s]
    return [
        (int(labels[i]), start, end)
        for i, start, end in zip(first, edges[:-1], edges[1:], strict=True)
        if labels[i] >= 0
    ]


def draw_timeline(timeline: VideoTimeline, phases: Sequence[str]) -> Figure:
    """Ribbons of one video, at most one run a pixel.

    Times between the pixels are left out of the drawing, never out of the scores.
    """
    times_s, end_s = timeline.times_s, score_video(timeline).duration_s
    shown = _one_a_pixel(len(times_s))
    starts_s = times_s[shown]
    rows = {"truth": timeline.truth, "prediction": timeline.prediction}
    rows["smoothed"] = timeline.smoothed
    ribbons = {name: labels[shown] for name, labels in rows.items() if labels is not None}
    final = ribbons.get("smoothed", ribbons["prediction"])
    truth = ribbons.get("truth")
    heights = [ROW] * len(ribbons) + ([8] if truth is not None else []) + [CURVE]
    total = sum(heights) + GAP * len(heights)
    figure = new_figure(LEFT + PLOT + RIGHT, total + 24)
    top = 2.0
    for name, labels in ribbons.items():
        axes = _row(figure, name, top, ROW, total + 24, end_s)
        _draw_runs(axes, find_runs(labels, starts_s, end_s), phases, end_s)
        top += ROW + GAP
    if truth is not None:
        axes = _row(figure, "errors", top, 8, total + 24, end_s)
        wrong = np.where((truth >= 0) & (truth != final), 0, -1)
        runs = find_runs(wrong, starts_s, end_s)
        axes.broken_barh([(s, e - s) for _, s, e in runs], (0, 1), color=BAD, linewidth=0)
        axes.axhline(0.5, color=LINE, linewidth=0.6, zorder=0)
        top += 8 + GAP
    axes = _row(figure, "confidence", top, CURVE, total + 24, end_s)
    axes.stairs(timeline.confidence[shown], [*starts_s, end_s], fill=True, color=ACCENT, alpha=0.35)
    axes.set_yticks([0, 1])
    axes.tick_params(axis="y", labelleft=False, labelright=True, length=0, pad=2)
    axes.tick_params(axis="x", labelbottom=True, length=3)
    axes.grid(visible=True, axis="x", color=LINE, linewidth=0.6)
    return figure


def draw_window_ribbons(
    cases: Sequence[tuple[str, NDArray[np.int64], NDArray[np.int64]]], phases: Sequence[str]
) -> Figure:
    """Truth above prediction for the windows of each case, one after the other.

    Args:
        cases: Name, labels (N,) and predictions (N,) of each.
        phases: Names of the labels.
    """
    height = 24 + 2 * ROW + 4
    total = height * max(len(cases), 1) + 24
    figure = new_figure(LEFT + PLOT + RIGHT, total)
    for place, (name, truth, prediction) in enumerate(cases):
        starts = np.arange(len(truth), dtype=np.float64)
        for row, (title, labels) in enumerate((("truth", truth), ("prediction", prediction))):
            top = height * place + 24 + (ROW + 2) * row
            axes = _row(figure, title, top, ROW, total, len(truth))
            _draw_runs(axes, find_runs(labels, starts, len(truth)), phases, len(truth))
            if row == 0:
                right = float((truth == prediction).mean()) if len(truth) else 0.0
                text = f"{short(name, 60)}: {len(truth)} windows, {100 * right:.0f} % right"
                axes.set_title(text, loc="left", color=MUTED, fontsize=FONT_PX, pad=5)
    return figure


def _step(times_s: NDArray[np.float64]) -> float:
    """Seconds from one time to the next."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0


def _one_a_pixel(num_times: int) -> NDArray[np.int64]:
    """Indices of at most ``PLOT`` times, evenly spaced."""
    return np.unique(np.linspace(0, num_times - 1, min(num_times, PLOT)).round().astype(np.int64))


def _row(figure: Figure, name: str, top: float, height: float, total: float, end_s: float) -> Axes:
    axes = add_axes(figure, LEFT, top, RIGHT, total - top - height)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set(xlim=(0, max(end_s, 1e-9)), ylim=(0, 1), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 1.5, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_clock(seconds)))
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.text(
        -10 / PLOT,
        0.5,
        name,
        transform=axes.transAxes,
        ha="right",
        va="center",
        color=MUTED,
        fontsize=FONT_PX,
    )
    return axes


def _draw_runs(
    axes: Axes,
    runs: Sequence[tuple[int, float, float]],
    phases: Sequence[str],
    end_s: float,
) -> None:
    """One ribbon; a run carries its phase's name, or its number, where that fits."""
    colors = phase_colors(len(phases))
    for label in sorted({label for label, _, _ in runs}):
        bars = [(start, end - start) for one, start, end in runs if one == label]
        axes.broken_barh(bars, (0, 1), color=colors[label], linewidth=0)
    for label, start, end in runs:
        room = (end - start) / end_s * PLOT - 6
        name = short(phases[label], 28)
        if text_width(name, 10) <= room:
            axes.text(
                (start + end) / 2,
                0.48,
                name,
                ha="center",
                va="center",
                fontsize=10,
                color=text_color(colors[label]),
            )
