"""The trials of a search as figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
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
    name_axes,
    new_figure,
    phase_colors,
    short,
    text_width,
    widest,
)
from ophnet_ray.reports.trial_record import TrialRecord

WIDTH = 680
ROW_PX = 17


def draw_optimisation(trials: Sequence[TrialRecord], winner: str | None, metric: str) -> Figure:
    """Score by order of the trials, and the best score of finished trials so far."""
    figure = new_figure(WIDTH, 280)
    axes = add_axes(figure, 44, 28, 90, 38)
    name_axes(axes, "trials in the order of their start", metric)
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
    """The metric over the epochs of each trial; a cross ends those that were stopped."""
    figure = new_figure(WIDTH, 300)
    axes = add_axes(figure, 44, 28, 20, 38)
    name_axes(axes, "epoch", metric)
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
            end = BAD if trial.state == "failed" else MUTED
            axes.plot(x[-1], y[-1], "x", color=end, markersize=6, markeredgewidth=1.6)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.margins(x=0.02)
    return figure


def draw_importances(importances: Mapping[str, float]) -> Figure:
    """A bar for the share of each parameter, the largest on top."""
    ranked = sorted(importances.items(), key=lambda pair: pair[1])
    names = [short(name) for name, _ in ranked]
    left = 14 + widest(names)
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
    """F1 of each phase under the best trial of each scheme; phases by their training segments."""
    f1_of = {scheme: trial.f1_by_phase or {} for scheme, trial in schemes.items()}
    phases = sorted(
        {phase for f1 in f1_of.values() for phase in f1},
        key=lambda phase: (-rows_by_phase.get(phase, 0), phase),
    )
    names = [f"{short(phase, 30)}  ({rows_by_phase.get(phase, 0):,})" for phase in phases]
    left = 16 + widest(names, 10)
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
    at = 0.0
    for place, (scheme, f1) in enumerate(f1_of.items()):
        # a little apart, so that none hides another
        shift = (place - (len(f1_of) - 1) / 2) * 2.5 / ROW_PX
        rows = [phases.index(phase) + shift for phase in f1]
        axes.plot(list(f1.values()), rows, "o", color=colors[place], markersize=5, clip_on=False)
        at += _label_key(axes, at, scheme, colors[place])
    return figure


def _label_key(axes: Axes, at: float, scheme: str, color: str) -> float:
    """A dot and a name above the axes, ``at`` pixels from the left; the pixels it takes."""
    name = short(scheme)
    for text, offset, ink in (("\N{BLACK CIRCLE}", 0, color), (name, 13, INK)):
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(at + offset, 14),
            textcoords="offset points",
            color=ink,
            fontsize=FONT_PX,
            va="center",
        )
    return 13 + text_width(name) + 12
