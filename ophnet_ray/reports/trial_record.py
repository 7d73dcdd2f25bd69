"""A trial of a search, as reports show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ophnet_ray.metrics.bootstrap import Interval


@dataclass(frozen=True)
class TrialRecord:
    """A training run of a search.

    ``history``: lines of its ``metrics.jsonl``. ``score``: the metric in its best epoch.
    ``interval``: its 95 % interval over cases. ``best_epoch`` counts from 1. ``is_tied``: the
    interval of the winner's lead over this trial includes 0; the winner itself is not tied.
    ``f1_by_phase``: F1 in the best epoch of each phase that has validation windows.
    """

    trial_id: str
    state: Literal["finished", "stopped", "diverged", "failed"]
    params: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    score: float | None
    best_epoch: int | None
    interval: Interval | None
    is_tied: bool
    f1_by_phase: Mapping[str, float] | None
    seconds: float


def sort_by_score(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sort trials by score, the best first; trials without a score come last."""
    scored = [trial for trial in trials if trial.score is not None]
    scored.sort(key=lambda trial: -(trial.score or 0.0))
    return [*scored, *(trial for trial in trials if trial.score is None)]


def best_of_each_scheme(trials: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """Return the best trial of each value of ``class_weights``, the best first.

    The mapping is empty if ``class_weights`` was not searched.
    """
    best: dict[str, TrialRecord] = {}
    for trial in sort_by_score(trials):
        if "class_weights" in trial.params and trial.f1_by_phase:
            best.setdefault(str(trial.params["class_weights"]), trial)
    return best
