"""Page of a comparison: verdicts, scores, phases and cases in pairs, ribbons side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ophnet_ray.metrics.comparison import MAIN_SCORE, Comparison
from ophnet_ray.metrics.timelines import label_accuracy
from ophnet_ray.metrics.verdict import Verdict, format_difference, format_p_value
from ophnet_ray.reports.figures import phase_colors, to_svg
from ophnet_ray.reports.page import write_page
from ophnet_ray.reports.timeline_figures import draw_model_ribbons

MAX_VIDEOS = 6
"""Videos with ribbons for each pair of models: those whose accuracy changed most."""
MAX_CASE_ROWS = 200


@dataclass(frozen=True, slots=True)
class ComparedVideo:
    """Labels of one video, (N,) each: the truth, and those of each model by its name."""

    video_id: str
    case_id: str
    times_s: NDArray[np.float64]
    truth: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.int64]]

    def accuracy_of(self, model: str) -> float:
        """Return the share of annotated frames that a model predicts rightly."""
        return label_accuracy(self.truth, self.labels[model]) or 0.0


@dataclass(frozen=True, slots=True)
class DrawnVideo:
    """A video with its ribbons, its accuracy under both models, and the labels that they show."""

    video: ComparedVideo
    before: float
    after: float
    ribbon: Markup
    shown: frozenset[int]


@dataclass(frozen=True)
class ComparisonReport:
    """Content of the page of a comparison.

    ``models``: names in the order of the command; ``videos``: empty where only counts are known;
    ``notes``: cautions for readers, one sentence each.
    """

    title: str
    subtitle: str
    models: Sequence[str]
    phases: Sequence[str]
    comparisons: Sequence[Comparison]
    verdicts: Sequence[Verdict]
    videos: Sequence[ComparedVideo]
    notes: Sequence[str]
    versions: Mapping[str, str]


def write_comparison_report(path: Path, report: ComparisonReport) -> None:
    """Write the page atomically: one file, without scripts."""
    letters = dict(zip(report.models, map(_letter, range(len(report.models))), strict=True))
    videos = [
        _draw_videos(report, comparison, letters, number)
        for number, comparison in enumerate(report.comparisons)
    ]
    pairs = [
        {
            "comparison": comparison,
            "verdict": verdict,
            "scores": sorted(comparison.scores, key=lambda score: score.name != MAIN_SCORE),
            "cases": comparison.cases[:MAX_CASE_ROWS],
            "num_cases_left_out": max(len(comparison.cases) - MAX_CASE_ROWS, 0),
            "videos": drawn,
        }
        for comparison, verdict, drawn in zip(
            report.comparisons, report.verdicts, videos, strict=True
        )
    ]
    shown = {label for drawn in videos for video in drawn for label in video.shown}
    write_page(
        path,
        "comparison.html.j2",
        {
            "report": report,
            "letters": letters,
            "pairs": pairs,
            "colors": dict(zip(report.phases, phase_colors(len(report.phases)), strict=True)),
            "legend": [name for label, name in enumerate(report.phases) if label in shown],
            "difference": format_difference,
            "p_value": format_p_value,
        },
    )


def _letter(number: int) -> str:
    """Return A to Z, then numbers."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _draw_videos(
    report: ComparisonReport, comparison: Comparison, letters: Mapping[str, str], number: int
) -> list[DrawnVideo]:
    """Draw the videos whose accuracy changed most between two models."""
    pair = (comparison.before, comparison.after)

    def change(video: ComparedVideo) -> tuple[float, float]:
        before, after = (video.accuracy_of(name) for name in pair)
        first, second = (video.labels[name] for name in pair)
        return abs(after - before), float((first != second).mean())

    ranked = sorted(report.videos, key=change, reverse=True)
    drawn = []
    for index, video in enumerate(ranked[:MAX_VIDEOS]):
        if change(video) == (0, 0):
            break
        rows = {letters[name]: video.labels[name] for name in pair}
        figure = draw_model_ribbons(video.times_s, video.truth, rows, report.phases)
        title = f"phases of {video.video_id}: truth, {pair[0]}, {pair[1]}"
        ribbon: Markup = to_svg(figure, f"pair{number}video{index}", title)
        shown = np.unique(np.concatenate([video.truth, *rows.values()]))
        before, after = (video.accuracy_of(name) for name in pair)
        labels = frozenset(int(label) for label in shown if label >= 0)
        drawn.append(DrawnVideo(video, before, after, ribbon, labels))
    return drawn
