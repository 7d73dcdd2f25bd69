"""Trials as lines through their parameters to their scores."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ophnet_ray.reports.figures import FONT_PX, INK, MUTED, PAPER, add_axes, new_figure, short
from ophnet_ray.reports.trial_record import TrialRecord

LEAST_WIDTH, AXIS_PX = 680, 150
MOST_CATEGORIES = 8


def draw_parallel_coordinates(
    trials: Sequence[TrialRecord], winner: str | None, metric: str
) -> Figure:
    """A line for each trial with a score through its parameters to its score.

    Colour goes with the score, purple (low) to orange (high); stopped trials are dotted.
    """
    scored = [trial for trial in trials if trial.score is not None]
    names = sorted({name for trial in scored for name in trial.params})
    figure = new_figure(max(LEAST_WIDTH, AXIS_PX * (len(names) + 1)), 340)
    axes = add_axes(figure, 60, 34, 60, 16)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, len(names)), ylim=(0, 1), xticks=[], yticks=[])
    heights = [_place_parameter(axes, x, name, scored) for x, name in enumerate(names)]
    scores = [trial.score or 0.0 for trial in scored]
    heights.append(_place_numbers(axes, len(names), metric, scores, is_log=False))
    colors = mpl.colormaps["plasma"]
    for row, trial in enumerate(scored):
        is_winner = trial.trial_id == winner
        axes.plot(
            range(len(heights)),
            [column[row] for column in heights],
            color=to_hex(colors(0.25 + 0.55 * heights[-1][row])),
            linewidth=3.2 if is_winner else 1.3,
            linestyle=":" if trial.state == "stopped" else "-",
            zorder=4 if is_winner else 2 + heights[-1][row],
        )
    return figure


def _place_parameter(axes: Axes, x: float, name: str, trials: Sequence[TrialRecord]) -> list[float]:
    """Draw the axis of a parameter; return the heights of the trials on it, in [0, 1]."""
    values: list[Any] = [trial.params.get(name) for trial in trials]
    if not _are_numbers(values):
        return _place_categories(axes, x, name, values)
    if len(set(values)) > MOST_CATEGORIES or any(isinstance(value, float) for value in values):
        is_log = min(values) > 0 and max(values) > 10 * min(values)
        return _place_numbers(axes, x, name, values, is_log=is_log)
    return _place_categories(axes, x, name, values)


def _place_numbers(
    axes: Axes, x: float, name: str, values: Sequence[float], *, is_log: bool
) -> list[float]:
    scaled = np.log10(values) if is_log else np.asarray(values, dtype=np.float64)
    low, high = float(scaled.min()), float(scaled.max())
    span = high - low or 1.0
    _draw_axis(axes, x, f"{name} (log)" if is_log else name)
    for height in np.linspace(0, 1, 5):
        value = low + height * span
        _label_tick(axes, x, float(height), f"{10**value if is_log else value:.2g}")
    return [float(height) for height in (scaled - low) / span]


def _place_categories(axes: Axes, x: float, name: str, values: Sequence[Any]) -> list[float]:
    """Categories at even heights; trials of the same one a little apart, to be told apart."""
    distinct = sorted(set(values), key=None if _are_numbers(values) else str)
    step = 1 / max(len(distinct), 1)
    _draw_axis(axes, x, name)
    for place, value in enumerate(distinct):
        _label_tick(axes, x, (place + 0.5) * step, short(str(value), 16))
    heights, seen = [], dict.fromkeys(distinct, 0)
    for value in values:
        seen[value] += 1
        spread = (seen[value] / (values.count(value) + 1) - 0.5) * step * 0.5
        heights.append((distinct.index(value) + 0.5) * step + spread)
    return heights


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _draw_axis(axes: Axes, x: float, name: str) -> None:
    axes.plot([x, x], [0, 1], color=MUTED, linewidth=1, zorder=3, clip_on=False)
    axes.text(x, 1.06, short(name), ha="center", va="bottom", color=INK, fontsize=FONT_PX)


def _label_tick(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=10,
        zorder=6,
        annotation_clip=False,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
    )
