"""Page of a cross-validation: pooled scores, folds, phases, and the worst cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.fold_scores import FoldSpread, HeldOutCase
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.reports.figures import phase_colors, to_svg
from ophnet_ray.reports.page import write_page
from ophnet_ray.reports.runs_report import link_to
from ophnet_ray.reports.score_figures import draw_confusion

MAX_CASE_ROWS = 30


@dataclass(frozen=True, slots=True)
class FoldRow:
    """Row of a fold in the table; ``report``: path of the page of its run, None in a bucket.

    ``frame_macro_f1``, ``frame_accuracy``: of the annotated time, where it chose the epochs.
    """

    number: int
    run: str
    num_cases: int
    num_units: int
    macro_f1: float
    interval: Interval | None
    accuracy: float
    best_epoch: int
    report: Path | None
    frame_macro_f1: float | None = None
    frame_accuracy: float | None = None


@dataclass(frozen=True)
class FoldsReport:
    """Content of the page of a cross-validation.

    ``card``: scores pooled over all cases; ``spread``: of the macro-F1 over the folds; ``cases``:
    the worst first; ``notes``: cautions for readers, one sentence each; ``frame_spread``: of the
    macro-F1 of the annotated time, where it chose the epochs.
    """

    title: str
    subtitle: str
    card: ScoreCard
    spread: FoldSpread
    folds: Sequence[FoldRow]
    cases: Sequence[HeldOutCase]
    notes: Sequence[str]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    frame_spread: FoldSpread | None = None


def write_folds_report(path: Path, report: FoldsReport) -> None:
    """Write the page atomically: one file, without scripts, with links to the pages of the runs."""
    card, phases = report.card, report.card.phases
    title = f"confusion of {card.num_units} {card.unit} of {card.num_cases} held-out cases"
    write_page(
        path,
        "folds.html.j2",
        {
            "report": report,
            "card": card,
            "links": {
                row.number: link_to(row.report, path.parent)
                for row in report.folds
                if row.report is not None
            },
            "rows": report.cases[:MAX_CASE_ROWS],
            "num_left_out": max(len(report.cases) - MAX_CASE_ROWS, 0),
            "colors": dict(zip(phases, phase_colors(len(phases)), strict=True)),
            "confusion": to_svg(draw_confusion(card.confusion, phases), "confusion", title),
        },
    )
