"""Figures of a search: scores, curves and parameters of its trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ophnet_ray.reports.figures import (
    ACCENT,
    BAD,
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
from ophnet_ray.reports.trial_record import TrialRecord

WIDTH_PX, PARAMETER_PX = 680, 150
ROW_PX = 17
MAX_CATEGORIES = 8


def draw_optimisation(trials: Sequence[TrialRecord], winner: str | None, metric: str) -> Figure:
    """Draw the score of each trial in the order of their start, and the best finished so far."""
    figure = new_figure(WIDTH_PX, 280)
    axes = add_axes(figure, 44, 28, 90, 38)
    label_axes(axes, "trials in the order of their start", metric)
    best, so_far = -np.inf, []
    for order, trial in enumerate(trials, start=1):
        if trial.score is not None:
            _draw_trial(axes, order, trial, is_winner=trial.trial_id == winner)
            if trial.state == "finished":
                best = max(best, trial.score)
        so_far.append(best if np.isfinite(best) else np.nan)
    orders = np.arange(1, len(trials) + 1)
    axes.step(orders, so_far, where="post", color=SECOND, linewidth=1.4, zorder=1)
    if np.isfinite(best):
        axes.annotate(
            "best so far",
            (1, best),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            color=SECOND,
            fontsize=FONT_PX,
            va="center",
        )
    failed = [order for order, trial in enumerate(trials, start=1) if trial.score is None]
    bottom = axes.get_xaxis_transform()
    axes.plot(
        failed,
        [0.03] * len(failed),
        "x",
        color=BAD,
        markersize=6,
        transform=bottom,
        clip_on=False,
    )
    axes.set_xlim(0.5, len(trials) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def _draw_trial(axes: Axes, order: int, trial: TrialRecord, is_winner: bool) -> None:
    score = trial.score or 0.0
    if trial.interval is not None:
        axes.plot([order, order], trial.interval, color=ACCENT, alpha=0.45, linewidth=2)
    is_stopped = trial.state == "stopped"
    axes.plot(
        order,
        score,
        marker="o",
        markersize=8 if is_winner else 5.5,
        markerfacecolor=SECOND if is_winner else PAPER if is_stopped else ACCENT,
        markeredgecolor=SECOND if is_winner else MUTED if is_stopped else ACCENT,
        linestyle="none",
        zorder=3,
    )


def draw_trial_curves(trials: Sequence[TrialRecord], winner: str | None, metric: str) -> Figure:
    """Draw the metric of each trial over its epochs; a cross marks a trial that did not finish."""
    figure = new_figure(WIDTH_PX, 300)
    axes = add_axes(figure, 44, 28, 20, 38)
    label_axes(axes, "epoch", metric)
    order = sorted(trials, key=lambda trial: (trial.trial_id == winner, trial.state == "finished"))
    for trial in order:
        points = [(line["epoch"] + 1, line[metric]) for line in trial.history if metric in line]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        is_finished, is_winner = trial.state == "finished", trial.trial_id == winner
        color = SECOND if is_winner else ACCENT if is_finished else MUTED
        axes.plot(
            x,
            y,
            color=color,
            alpha=1 if is_winner else 0.55,
            linewidth=2.2 if is_winner else 1.2,
        )
        if not is_finished:
            end = BAD if trial.state in ("diverged", "failed") else MUTED
            axes.plot(x[-1], y[-1], "x", color=end, markersize=6, markeredgewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.margins(x=0.02)
    return figure


def draw_parallel_coordinates(
    trials: Sequence[TrialRecord], winner: str | None, metric: str
) -> Figure:
    """Draw each trial with a score as a line through its parameters to its score.

    Colours run from purple (low score) to orange (high score). Stopped trials are dotted.
    """
    scored = [trial for trial in trials if trial.score is not None]
    names = sorted({name for trial in scored for name in trial.params})
    figure = new_figure(max(WIDTH_PX, PARAMETER_PX * (len(names) + 1)), 340)
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
    """Draw the axis of a parameter; return the height of each trial on it, in [0, 1]."""
    values: list[Any] = [trial.params.get(name) for trial in trials]
    if not _are_numbers(values):
        return _place_categories(axes, x, name, values)
    if len(set(values)) > MAX_CATEGORIES or any(isinstance(value, float) for value in values):
        is_log = min(values) > 0 and max(values) > 10 * min(values)
        return _place_numbers(axes, x, name, values, is_log=is_log)
    return _place_categories(axes, x, name, values)


def _place_numbers(
    axes: Axes, x: float, name: str, values: Sequence[float], *, is_log: bool
) -> list[float]:
    """Draw a numeric axis from the lowest to the highest value; return the heights."""
    scaled = np.log10(values) if is_log else np.asarray(values, dtype=np.float64)
    low, high = float(scaled.min()), float(scaled.max())
    span = high - low or 1.0
    _draw_axis(axes, x, f"{name} (log)" if is_log else name)
    for height in np.linspace(0, 1, 5):
        value = low + height * span
        _label_tick(axes, x, float(height), f"{10**value if is_log else value:.2g}")
    return [float(height) for height in (scaled - low) / span]


def _place_categories(axes: Axes, x: float, name: str, values: Sequence[Any]) -> list[float]:
    """Draw an axis of categories; trials of one category are spread a little."""
    distinct = sorted(set(values), key=None if _are_numbers(values) else str)
    step = 1 / max(len(distinct), 1)
    _draw_axis(axes, x, name)
    for index, value in enumerate(distinct):
        _label_tick(axes, x, (index + 0.5) * step, shorten(str(value), 16))
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
    axes.text(x, 1.06, shorten(name), ha="center", va="bottom", color=INK, fontsize=FONT_PX)


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


def draw_importances(importances: Mapping[str, float]) -> Figure:
    """Draw one bar per parameter, the most important on top."""
    ranked = sorted(importances.items(), key=lambda pair: pair[1])
    names = [shorten(name) for name, _ in ranked]
    left = 14 + max_text_width(names)
    figure = new_figure(left + 220, 26 * len(ranked) + 12)
    axes = add_axes(figure, left, 4, 52, 8)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set(xticks=[], xlim=(0, max([*importances.values(), 1e-9])))
    axes.barh(names, [share for _, share in ranked], color=ACCENT, height=0.6)
    axes.tick_params(axis="y", length=0)
    for row, (_, share) in enumerate(ranked):
        axes.annotate(
            f"{100 * share:.0f} %",
            (share, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=FONT_PX,
            annotation_clip=False,
        )
    return figure


def draw_f1_by_scheme(
    schemes: Mapping[str, TrialRecord], rows_by_phase: Mapping[str, int]
) -> Figure:
    """Draw the F1 of each phase in the best trial of each scheme.

    Args:
        schemes: Best trial of each scheme.
        rows_by_phase: Training segments of each phase; the largest phase is on top.
    """
    f1_of = {scheme: trial.f1_by_phase or {} for scheme, trial in schemes.items()}
    phases = sorted(
        {phase for f1 in f1_of.values() for phase in f1},
        key=lambda phase: (-rows_by_phase.get(phase, 0), phase),
    )
    names = [f"{shorten(phase, 30)}  ({rows_by_phase.get(phase, 0):,})" for phase in phases]
    left = 16 + max_text_width(names, 10)
    figure = new_figure(left + 460, ROW_PX * len(phases) + 66)
    axes = add_axes(figure, left, 38, 16, 28)
    axes.grid(visible=False, axis="y")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(phases) - 0.5, -0.5))
    axes.set_yticks(range(len(phases)), names, fontsize=10)
    axes.tick_params(length=0)
    for row, phase in enumerate(phases):
        values = [trial[phase] for trial in f1_of.values() if phase in trial]
        axes.plot([min(values), max(values)], [row, row], color=LINE, linewidth=3, zorder=1)
    colors = phase_colors(len(schemes))
    left_px = 0.0
    for index, (scheme, f1) in enumerate(f1_of.items()):
        # shifted a little, so that no dot hides another
        shift = (index - (len(f1_of) - 1) / 2) * 2.5 / ROW_PX
        rows = [phases.index(phase) + shift for phase in f1]
        axes.plot(list(f1.values()), rows, "o", color=colors[index], markersize=5, clip_on=False)
        left_px += _label_color(axes, left_px, scheme, colors[index])
    return figure


def _label_color(axes: Axes, left_px: float, scheme: str, color: str) -> float:
    """Draw a dot and the scheme's name above the axes; return their width in pixels."""
    name = shorten(scheme)
    for text, offset, ink in (("\N{BLACK CIRCLE}", 0, color), (name, 13, INK)):
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(left_px + offset, 14),
            textcoords="offset points",
            color=ink,
            fontsize=FONT_PX,
            va="center",
        )
    return 13 + text_width(name) + 12
