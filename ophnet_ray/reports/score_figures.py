"""Figures of scores: learning curves, confusion matrix, F1 against the number of training cases."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from ophnet_ray.metrics.score_card import PhaseScore
from ophnet_ray.reports.figures import (
    ACCENT,
    FONT_PX,
    INK,
    LINE,
    MUTED,
    PAPER,
    SECOND,
    add_axes,
    label_axes,
    max_text_width,
    new_figure,
    phase_colors,
    shorten,
    text_width,
)

CURVE_PX = (328, 220)
MAX_NUMBERED_PHASES = 16
"""Largest confusion matrix whose cells show their percentage."""


def draw_curves(
    history: Sequence[Mapping[str, float]], names: Mapping[str, str], best_epoch: int, title: str
) -> Figure:
    """Draw curves over the epochs and mark the best epoch.

    Args:
        history: Lines of ``metrics.jsonl``. Their epochs count from 0, those of the figure from 1.
        names: Keys of the history to draw, at most three, and the name of each curve.
        best_epoch: Counted from 1.
        title: Name of the y axis.
    """
    figure = new_figure(*CURVE_PX)
    room = 12 + max_text_width(list(names.values()))
    axes = add_axes(figure, 62, 28, room, 38)
    label_axes(axes, "epoch", title)
    axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    ends: list[tuple[float, str, str]] = []
    for (key, name), color in zip(names.items(), (ACCENT, SECOND, MUTED), strict=False):
        points = [(line["epoch"] + 1, line[key]) for line in history if key in line]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, linewidth=1.6, marker="o" if len(x) == 1 else "", markersize=4)
        chosen = [value for epoch, value in points if epoch == best_epoch]
        axes.plot([best_epoch] * len(chosen), chosen, color=color, marker="o", markersize=4.5)
        ends.append((y[-1], name, color))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.margins(x=0.02)
    label_ends(axes, ends)
    return figure


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Label curves at their right ends, without overlap.

    Args:
        axes: Axes of the curves.
        ends: Last y, name and colour of each curve.
    """
    low, high = axes.get_ylim()
    height = float(axes.get_window_extent().height)
    step = (high - low) * (FONT_PX + 3) / height
    at = -np.inf
    for y, name, color in sorted(ends):
        at = max(at + step, y)
        axes.annotate(
            name,
            (1, at),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            color=color,
            fontsize=FONT_PX,
            va="center",
            annotation_clip=False,
        )


def draw_confusion(
    confusion: NDArray[np.int64], phases: Sequence[str], name_length: int = 24
) -> Figure:
    """Draw the confusion matrix, each row in percent of its sum.

    Phases that are neither a label nor a prediction are left out.

    Args:
        confusion: (K, K), or (K, K + 1) with a last column of frames without a prediction.
        phases: K names.
        name_length: Maximum length of a name in the figure.
    """
    size = len(phases)
    is_used = confusion.sum(axis=1) + confusion[:, :size].sum(axis=0) > 0
    occurs = [label for label in range(size) if is_used[label]]
    missing = confusion.shape[1] > size and confusion[:, size].any()
    columns = [*occurs, *([size] if missing else [])]
    counts = confusion[occurs][:, columns]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [shorten(phases[i], name_length) for i in occurs]
    has_numbers = len(columns) <= MAX_NUMBERED_PHASES
    cell, font = (34, FONT_PX) if has_numbers else (15, 10)
    margin = 14 + max_text_width(names, font)
    figure = new_figure(
        cell * len(columns) + margin + 12, cell * len(occurs) + margin + 38 if occurs else 60
    )
    axes = add_axes(figure, margin, 22, 12, margin + 16)
    axes.set(xlim=(0, max(len(columns), 1)), ylim=(max(len(occurs), 1), 0))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.hlines(range(len(occurs) + 1), 0, len(columns), color=LINE, linewidth=0.6)
    axes.vlines(range(len(columns) + 1), 0, len(occurs), color=LINE, linewidth=0.6)
    _fill_cells(axes, shares, has_numbers)
    ticks = np.arange(len(columns)) + 0.5
    below = [*names, *(["(none)"] if missing else [])]
    turn = 0 if max_text_width(below, font) < cell else 90
    axes.set_xticks(ticks, below, rotation=turn, fontsize=font)
    axes.set_yticks(ticks[: len(occurs)], names, fontsize=font)
    axes.tick_params(length=0, pad=5)
    label_axes(axes, "predicted phase", "true phase, % of its row")
    return figure


def _fill_cells(axes: Axes, shares: NDArray[np.float64], has_numbers: bool) -> None:
    """Shade cells by their share; one collection, since a thousand single patches take seconds."""
    cells = [(int(row), int(column)) for row, column in np.argwhere(shares > 0)]
    axes.add_collection(
        PolyCollection(
            [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in cells],
            facecolors=[to_rgba(ACCENT, 0.04 + 0.96 * float(shares[cell])) for cell in cells],
            linewidths=0,
        )
    )
    for row, column in cells if has_numbers else []:
        share = float(shares[row, column])
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{100 * share:.0f}" if share >= 0.005 else "<1",
            color=PAPER if share > 0.45 else INK,
            fontsize=FONT_PX,
            ha="center",
            va="center",
        )


def draw_f1_by_cases(by_phase: Sequence[PhaseScore]) -> Figure:
    """Draw the F1 of each phase against its number of training cases, with names where they fit."""
    colors = phase_colors(len(by_phase))
    scored = [pair for pair in zip(by_phase, colors, strict=True) if pair[0].support]
    figure = new_figure(680, 320)
    axes = add_axes(figure, 36, 28, 20, 38)
    label_axes(axes, "training cases (log scale)", "F1")
    # a phase without training cases is at 0, which a logarithmic axis cannot show
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_ylim(-0.04, 1.06)
    num_cases = [score.num_train_cases for score, _ in scored]
    low = min(num_cases, default=0) / 1.4
    high = max(num_cases, default=1)
    axes.set_xlim(low or -0.2, max(high, 1) * 1.5)
    ticks = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    axes.set_xticks([tick for tick in ticks if low <= tick <= 2 * high])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(ScalarFormatter())
    for score, color in scored:
        axes.plot(
            score.num_train_cases,
            score.f1,
            marker="o",
            markersize=7,
            markerfacecolor=color,
            markeredgecolor=PAPER,
            markeredgewidth=0.8,
            linestyle="none",
        )
    points = [(score.num_train_cases, score.f1, shorten(score.phase, 20)) for score, _ in scored]
    label_points(axes, sorted(points, key=lambda point: point[1]))
    return figure


def label_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Label points right, left, above or below; leave out names that would overlap others.

    Args:
        axes: Axes of the points.
        points: x, y and name of each point, the most important first.
    """
    bounds = axes.get_window_extent()
    pixels = [axes.transData.transform((x, y)).tolist() for x, y, _ in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    for own, ((x, y, name), (px, py)) in enumerate(zip(points, pixels, strict=True)):
        width, half = text_width(name, FONT_PX) * 0.92, FONT_PX / 2 + 1
        for dx, dy in ((8, 0), (-8 - width, 0), (-width / 2, 13), (-width / 2, -13)):
            box = (px + dx, py + dy - half, px + dx + width, py + dy + half)
            inside = box[0] >= bounds.x0 and box[2] <= bounds.x1 + 16
            others = (*taken[:own], *taken[own + 1 :])
            if inside and not any(_overlap(box, other) for other in others):
                taken.append(box)
                axes.annotate(
                    name,
                    (x, y),
                    xytext=(dx if dx == 8 else dx + (width if dx == -8 - width else width / 2), dy),
                    textcoords="offset points",
                    ha="left" if dx == 8 else "right" if dx == -8 - width else "center",
                    va="center",
                    color=MUTED,
                    fontsize=FONT_PX,
                )
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
