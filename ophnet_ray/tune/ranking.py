"""Ranking of trials, with intervals that separate a better trial from a lucky one.

Only a finished trial can win: a stopped trial's score belongs to a shorter training.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import (
    Interval,
    ScoreFn,
    bootstrap_scores,
    difference_interval,
    score_interval,
)
from ophnet_ray.metrics.classification import accuracy, f1_per_class, macro_f1_present
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.models.payload import read_payload
from ophnet_ray.tune.config import Metric
from ophnet_ray.tune.trial import Trial, best_record

MAX_LEADERS = 10
"""Trials that get an interval; those ranked below are not tied in practice."""
MAX_FINALISTS = 3
_ORDER = {"finished": 0, "stopped": 1, "unfinished": 2, "failed": 3}
_SCORE_FUNCTIONS: dict[Metric, ScoreFn] = {"val_macro_f1": macro_f1_present, "val_acc": accuracy}


@dataclass(frozen=True, slots=True)
class RankedTrial:
    """A trial and its score at its best epoch, which is counted from 1.

    ``interval``: 95 % interval of the score over the validation cases. ``gain``: the same of the
    lead that the first trial of the ranking has over this one, from paired cases. ``is_tied``: the
    lead may be zero. ``confusion``: (K, K) counts of the validation windows.
    """

    trial: Trial
    score: float | None = None
    best_epoch: int | None = None
    interval: Interval | None = None
    gain: Interval | None = None
    is_tied: bool = False
    confusion: NDArray[np.int64] | None = None


def rank_trials(trials: Sequence[Trial], metric: Metric) -> list[RankedTrial]:
    """Rank trials: finished ones, then stopped, unfinished and failed ones; the best first in each.

    The first ``MAX_LEADERS`` get intervals, all from the same resamples of the validation cases. A
    finished trial is tied with the first one when the interval of their paired difference reaches
    0. A single validation case gives neither intervals nor ties.
    """
    rows = [_score(trial, metric) for trial in trials]
    rows.sort(key=lambda row: (_ORDER[row.trial.state], -(row.score or 0.0), row.trial.number))
    leaders = [row for row in rows[:MAX_LEADERS] if row.trial.state == "finished"]
    counts = {row.trial.number: _counts_by_case(row) for row in leaders}
    resampled = {
        number: bootstrap_scores(by_case, _SCORE_FUNCTIONS[metric])
        for number, by_case in counts.items()
        if len(by_case) > 1  # one case says nothing about others
    }
    rows = [
        replace(row, confusion=counts[row.trial.number].sum(axis=0))
        if row.trial.number in counts
        else row
        for row in rows
    ]
    num_cases = max(map(len, counts.values()), default=0)
    return [_compare_with_first(row, rows[0], resampled, num_cases) for row in rows]


def choose_finalists(ranked: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Return the first trial and those tied with it, at most ``MAX_FINALISTS``."""
    finished = [row for row in ranked if row.trial.state == "finished"]
    tied = [row for row in finished[1:] if row.is_tied]
    return [*finished[:1], *tied][:MAX_FINALISTS]


def choose_winner(
    ranked: Sequence[RankedTrial], repeats: Sequence[Trial], metric: Metric
) -> RankedTrial | None:
    """Return the first trial or, with repeats, the finalist with the best mean over its repeats.

    The score that made a trial a finalist does not enter its mean: it was selected for being high.
    None if no trial is finished.
    """
    finalists = {row.trial.number: row for row in choose_finalists(ranked)}
    scores: dict[int, list[float]] = {}
    for repeat in repeats:
        if repeat.state == "finished" and repeat.number in finalists:
            scores.setdefault(repeat.number, []).append(best_record(repeat.history)[metric])
    if scores:
        best = max(scores, key=lambda number: float(np.mean(scores[number])))
        return finalists[best]
    return next(iter(finalists.values()), None)


def f1_by_phase(row: RankedTrial, phases: Sequence[str]) -> dict[str, float] | None:
    """Return the F1 of each phase that occurs in the validation windows."""
    if row.confusion is None:
        return None
    present = row.confusion.sum(axis=1) > 0
    scores = f1_per_class(row.confusion)
    return {phase: float(scores[i]) for i, phase in enumerate(phases) if present[i]}


def format_table(ranked: Sequence[RankedTrial], metric: Metric, names: Sequence[str]) -> bytes:
    """Return the content of ``trials.csv``: one row per trial, in the order of the ranking."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [metric, "low", "high", "tied"]
    training = ["best_epoch", "epochs", "seconds"]
    writer.writerow(["trial", "state", *scores, *training, *names, "reason"])
    for row in ranked:
        trial = row.trial
        interval = row.interval or ("", "")
        writer.writerow(
            [
                trial.number,
                trial.state,
                "" if row.score is None else row.score,
                *interval,
                "yes" if row.is_tied else "",
                row.best_epoch or "",
                len(trial.history),
                round(trial.seconds, 1),
                *(trial.settings[name] for name in names),
                trial.reason,
            ]
        )
    return text.getvalue().encode()


def _score(trial: Trial, metric: Metric) -> RankedTrial:
    if not trial.history:
        return RankedTrial(trial)
    best: Mapping[str, float] = best_record(trial.history)
    return RankedTrial(trial, best[metric], int(best["epoch"]) + 1)


def _compare_with_first(
    row: RankedTrial,
    first: RankedTrial,
    resampled: Mapping[int, NDArray[np.float64]],
    num_cases: int,
) -> RankedTrial:
    own, best = resampled.get(row.trial.number), resampled.get(first.trial.number)
    if own is None or best is None or row.score is None or first.score is None:
        return row
    gain = None
    if row.trial is not first.trial:
        gain = difference_interval(first.score - row.score, best - own, num_cases)
    return replace(
        row,
        interval=score_interval(row.score, own, num_cases),
        gain=gain,
        is_tied=gain is not None and gain.low <= 0,
    )


def _counts_by_case(row: RankedTrial) -> NDArray[np.int64]:
    """Read (C, K, K) counts: the validation windows of each case at the trial's best epoch."""
    best = best_checkpoint(find_checkpoints(row.trial.run.checkpoints))
    return read_payload(best.file).validation_counts()
