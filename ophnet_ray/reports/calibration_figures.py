"""Calibration on the page of a model: reliability diagrams, and scores of the probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from ophnet_ray.metrics.calibration import ProbabilityScores, ReliabilityBin
from ophnet_ray.reports.figures import ACCENT, MUTED, add_axes, label_axes, new_figure, to_svg

DIAGRAM_PX = (328, 300)
_MIN_AREA, _MAX_AREA = 12.0, 60.0
"""Areas of the points of a diagram, square pixels."""


@dataclass(frozen=True)
class CalibrationSection:
    """Scores of probabilities before a temperature, and after it where there is one.

    ``after_means``: the temperatures of ``after`` in words.
    """

    before: ProbabilityScores
    after: ProbabilityScores | None
    after_means: str


def collect_calibration(section: CalibrationSection | None) -> dict[str, Any] | None:
    """Return the template's values of the calibration; None without a scored frame."""
    if section is None or not section.before.case_ids:
        return None
    before, after = section.before, section.after
    new = after.list_scores() if after else [None] * 3
    gains = after.gain_over(before) if after else {}
    sides = {"before": before, "after": after}
    return {
        "means": section.after_means if after else "",
        "rows": [
            (old, changed, gains.get(old.name))
            for old, changed in zip(before.list_scores(), new, strict=True)
        ],
        "diagrams": [
            (
                name,
                to_svg(
                    draw_reliability(side.bins),
                    f"reliability-{name}",
                    f"reliability diagram {name} the temperature, {len(side.bins)} bins",
                ),
                side.bins,
            )
            for name, side in sides.items()
            if side is not None
        ],
    }


def draw_reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """Draw accuracy against confidence, with 95 % intervals over cases.

    See Murphy & Winkler, "Reliability of Subjective Probability Forecasts" (1977).
    """
    figure = new_figure(*DIAGRAM_PX)
    axes = add_axes(figure, 40, 28, 12, 38)
    label_axes(axes, "confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
    for each in bins:
        if each.interval is not None:
            axes.plot([each.confidence] * 2, each.interval, color=ACCENT, linewidth=1.2, alpha=0.5)
    axes.plot(x, y, color=ACCENT, linewidth=1.0)
    most = max((each.num_frames for each in bins), default=1)
    areas = [max(_MAX_AREA * each.num_frames / most, _MIN_AREA) for each in bins]
    axes.scatter(x, y, s=areas, color=ACCENT, zorder=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return figure
