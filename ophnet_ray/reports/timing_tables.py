"""Tables of times on the page of a model: boundaries, durations, changes of phase."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.timelines import VideoTimeline
from ophnet_ray.metrics.timing import PhaseTiming, Timing, measure_timing

WITHIN_S = (2, 5, 10)
MAX_CHANGES = 16
"""Changes of phase in the table, the most frequent first."""


def collect_timing(
    timelines: Sequence[VideoTimeline], phases: Sequence[str]
) -> dict[str, Any] | None:
    """Return the template's values of the times; None without annotations."""
    timing = measure_timing(timelines, len(phases))
    if timing is None:
        return None
    errors_s = np.abs(timing.errors_s)
    longest_s = max(max(phase.true_s, phase.predicted_s) for phase in timing.phases)
    return {
        "segments_ratio": timing.segments_ratio,
        "num_boundaries": len(errors_s),
        "median_s": _median(errors_s),
        "within": [(seconds, float((errors_s <= seconds).mean())) for seconds in WITHIN_S]
        if len(errors_s)
        else [],
        "phases": [_describe(phase, phases, longest_s) for phase in timing.phases],
        **_list_changes(timing, phases),
    }


def _describe(phase: PhaseTiming, phases: Sequence[str], longest_s: float) -> dict[str, Any]:
    return {
        "name": phases[phase.label],
        "num_true": phase.num_true,
        "num_predicted": phase.num_predicted,
        "num_found": phase.num_found,
        "start_s": _median(np.abs(phase.start_errors_s)),
        "end_s": _median(np.abs(phase.end_errors_s)),
        "bias_s": _median(np.concatenate([phase.start_errors_s, phase.end_errors_s])),
        "true_s": phase.true_s,
        "predicted_s": phase.predicted_s,
        "true_share": phase.true_s / max(longest_s, 1e-9),
        "predicted_share": phase.predicted_s / max(longest_s, 1e-9),
    }


def _list_changes(timing: Timing, phases: Sequence[str]) -> dict[str, Any]:
    """List the most frequent changes of truth or prediction, with both counts."""
    most = np.maximum(timing.true_changes, timing.predicted_changes)
    order = np.argsort(-most, axis=None, kind="stable")[: int((most > 0).sum())]
    pairs = [divmod(int(index), len(phases)) for index in order]
    never = (timing.true_changes == 0) & (timing.predicted_changes > 0)
    return {
        "changes": [
            (
                phases[before],
                phases[after],
                int(timing.true_changes[before, after]),
                int(timing.predicted_changes[before, after]),
            )
            for before, after in pairs[:MAX_CHANGES]
        ],
        "num_changes_left_out": max(len(pairs) - MAX_CHANGES, 0),
        "num_never_true": int(timing.predicted_changes[never].sum()),
        "num_predicted_changes": int(timing.predicted_changes.sum()),
    }


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None
