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
    interval of the winner's lead over this trial reaches 0; the winner itself is not tied.
    ``f1_by_phase``: in the best epoch; phases without a validation window are left out.
    """

    trial_id: str
    state: Literal["finished", "stopped", "failed"]
    params: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    score: float | None
    best_epoch: int | None
    interval: Interval | None
    is_tied: bool
    f1_by_phase: Mapping[str, float] | None
    seconds: float


def rank_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those with a score, the best first; then the others."""
    scored = [trial for trial in trials if trial.score is not None]
    scored.sort(key=lambda trial: -(trial.score or 0.0))
    return [*scored, *(trial for trial in trials if trial.score is None)]


def best_of_each_scheme(trials: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """The best trial of each way of weighting phases, the best scheme first.

    A scheme is ``class_weights`` and, where it was searched, ``loss``; empty where neither was.
    """
    best: dict[str, TrialRecord] = {}
    for trial in rank_trials(trials):
        names = [name for name in ("class_weights", "loss") if name in trial.params]
        if names and trial.f1_by_phase:
            best.setdefault(" + ".join(str(trial.params[name]) for name in names), trial)
    return best
