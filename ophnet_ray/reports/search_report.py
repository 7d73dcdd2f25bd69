"""The page of a search: its winner, ranking, history, parameters and class weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ophnet_ray.metrics.gain import Gain
from ophnet_ray.reports.figures import to_svg
from ophnet_ray.reports.page import write_page
from ophnet_ray.reports.search_figures import (
    draw_f1_by_scheme,
    draw_importances,
    draw_optimisation,
    draw_parallel_coordinates,
    draw_trial_curves,
)
from ophnet_ray.reports.trial_record import TrialRecord, best_of_each_scheme, sort_by_score

MAX_TRIAL_ROWS = 200


@dataclass(frozen=True)
class SearchReport:
    """Content of the page of a search; the page leaves out what is empty.

    ``metric``: the key of the trials' histories that was maximised. ``trials``: in the order of
    their start. ``winner``: id of a trial. ``importances``: share of each parameter. ``space``:
    range or choices of each parameter, in the syntax of ``--search``. ``repeats``: table rows, one
    per finalist and seed. ``rows_by_phase``: number of training segments of each phase. ``gain``:
    over the settings as given, on cases that did not choose. ``optimism``: lead of the winner on
    the cases that chose it, minus this gain. ``num_folds``: folds on which each trial is scored,
    None for a holdout.
    """

    title: str
    metric: str
    trials: Sequence[TrialRecord]
    winner: str | None
    importances: Mapping[str, float]
    notes: Sequence[str]
    space: Mapping[str, str]
    repeats: Sequence[Mapping[str, Any]]
    rows_by_phase: Mapping[str, int]
    gain: Gain | None = None
    optimism: float | None = None
    num_folds: int | None = None


def write_search_report(path: Path, report: SearchReport) -> None:
    """Write the page atomically: one file, without scripts."""
    trials, winner = report.trials, report.winner
    ranked = sort_by_score(trials)
    schemes = best_of_each_scheme(trials)
    write_page(
        path,
        "search.html.j2",
        {
            "report": report,
            "winner": next((trial for trial in trials if trial.trial_id == winner), None),
            "ties": [trial for trial in ranked if trial.is_tied],
            "states": Counter(trial.state for trial in trials),
            "total_s": sum(trial.seconds for trial in trials),
            "rows": ranked[:MAX_TRIAL_ROWS],
            "num_left_out": max(len(ranked) - MAX_TRIAL_ROWS, 0),
            "params": list(dict.fromkeys(name for trial in trials for name in trial.params)),
            "repeat_columns": list(dict.fromkeys(name for row in report.repeats for name in row)),
            "scheme_rows": _compare_schemes(schemes, report.rows_by_phase),
            "figures": _draw_figures(report, schemes),
        },
    )


def _draw_figures(report: SearchReport, schemes: Mapping[str, TrialRecord]) -> dict[str, Markup]:
    """Draw the figures that have data, by name."""
    trials, winner, metric = report.trials, report.winner, report.metric
    figures = {}
    if any(trial.score is not None for trial in trials):
        figures = {
            "optimisation": (
                draw_optimisation(trials, winner, metric),
                f"{metric} of {len(trials)} trials in the order of their start",
            ),
            "parallel": (
                draw_parallel_coordinates(trials, winner, metric),
                f"parameters and {metric} of each trial as parallel coordinates",
            ),
            "curves": (
                draw_trial_curves(trials, winner, metric),
                f"{metric} over the epochs of each trial",
            ),
        }
    if report.importances:
        figures["importances"] = (
            draw_importances(report.importances),
            "importance of each parameter",
        )
    if schemes:
        figures["schemes"] = (
            draw_f1_by_scheme(schemes, report.rows_by_phase),
            "F1 of each phase under the best trial of each class-weight scheme",
        )
    return {key: to_svg(figure, key, title) for key, (figure, title) in figures.items()}


def _compare_schemes(
    schemes: Mapping[str, TrialRecord], rows_by_phase: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Average the F1 of each scheme over the rarest third of the phases, and over the others."""
    shared = [
        phase
        for phase in sorted(rows_by_phase, key=lambda phase: rows_by_phase[phase])
        if schemes and all(phase in (trial.f1_by_phase or {}) for trial in schemes.values())
    ]
    if not shared:
        return []
    num_rare = max(len(shared) // 3, 1)
    rows = []
    for scheme, trial in schemes.items():
        f1 = [(trial.f1_by_phase or {})[phase] for phase in shared]
        rows.append(
            {
                "scheme": scheme,
                "trial": trial,
                "rare": float(np.mean(f1[:num_rare])),
                "rest": float(np.mean(f1[num_rare:])) if f1[num_rare:] else None,
                "num_rare": num_rare,
            }
        )
    return rows
