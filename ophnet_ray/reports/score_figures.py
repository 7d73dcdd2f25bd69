"""Scores as figures: learning curves, confusion matrix, F1 against the number of training cases."""

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
    name_axes,
    new_figure,
    phase_colors,
    short,
    text_width,
    widest,
)

CURVE_PX = (328, 220)
ROOM_FOR_NUMBERS = 16
"""Phases, up to which a cell of the confusion matrix is large enough for its percentage."""


def draw_curves(
    history: Sequence[Mapping[str, float]], names: Mapping[str, str], best_epoch: int, title: str
) -> Figure:
    """Curves over the epochs, the best one marked.

    Args:
        history: Lines of ``metrics.jsonl``; their epochs count from 0, those of the page from 1.
        names: Keys of the history to draw, at most three, and what to call them.
        best_epoch: Counted from 1.
        title: What the curves measure.
    """
    figure = new_figure(*CURVE_PX)
    room = 12 + widest(list(names.values()))
    axes = add_axes(figure, 62, 28, room, 38)
    name_axes(axes, "epoch", title)
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
    """Name curves at their right ends, (y, name, colour), moved apart where they would overlap."""
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
    """The confusion matrix, each row divided by its sum.

    Phases that are neither a label nor a prediction are left out.

    Args:
        confusion: (K, K) or, with a last column of frames without a prediction, (K, K + 1).
        phases: K names.
        name_length: Longer names are cut.
    """
    size = len(phases)
    is_used = confusion.sum(axis=1) + confusion[:, :size].sum(axis=0) > 0
    occurs = [label for label in range(size) if is_used[label]]
    missing = confusion.shape[1] > size and confusion[:, size].any()
    columns = [*occurs, *([size] if missing else [])]
    counts = confusion[occurs][:, columns]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(phases[i], name_length) for i in occurs]
    has_numbers = len(columns) <= ROOM_FOR_NUMBERS
    cell, font = (34, FONT_PX) if has_numbers else (15, 10)
    margin = 14 + widest(names, font)
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
    turn = 0 if widest(below, font) < cell else 90
    axes.set_xticks(ticks, below, rotation=turn, fontsize=font)
    axes.set_yticks(ticks[: len(occurs)], names, fontsize=font)
    axes.tick_params(length=0, pad=5)
    name_axes(axes, "predicted", "true ↓   % of the row")
    return figure


def _fill_cells(axes: Axes, shares: NDArray[np.float64], has_numbers: bool) -> None:
    """The darker, the more; one collection, since a thousand single patches take seconds."""
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
    """F1 of each phase against the number of cases it was trained on; names where there is room."""
    colors = phase_colors(len(by_phase))
    scored = [pair for pair in zip(by_phase, colors, strict=True) if pair[0].support]
    figure = new_figure(680, 320)
    axes = add_axes(figure, 36, 28, 20, 38)
    name_axes(axes, "cases in training (log scale)", "F1")
    # a phase that no training case has is at 0, which no logarithm shows
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set_ylim(-0.04, 1.06)
    most = max((score.num_train_cases for score in by_phase if score.support), default=1)
    ticks = [n for n in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= 2 * most]
    least = min((score.num_train_cases for score in by_phase if score.support), default=0)
    axes.set_xlim(-0.2 if least == 0 else least / 1.4, max(most, 1) * 1.5)
    axes.set_xticks([n for n in ticks if n >= (0 if least == 0 else least / 1.4)])
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
    points = [(score.num_train_cases, score.f1, short(score.phase, 20)) for score, _ in scored]
    label_where_there_is_room(axes, sorted(points, key=lambda point: point[1]))
    return figure


def label_where_there_is_room(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Name points, (x, y, name), the first ones first; a name that would touch others is left out.

    Places are tried right, left, above and below of the point.
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
