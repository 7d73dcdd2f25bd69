"""Ranking of trials, with intervals that separate a better trial from a lucky one.

Only a finished trial can win: a stopped trial's score belongs to a shorter training.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import (
    Interval,
    ScoreFn,
    bootstrap_scores,
    difference_interval,
    score_interval,
)
from ophnet_ray.metrics.classification import f1_per_class
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.trial import LOWEST_SCORE, Trial
from ophnet_ray.tune.trial_counts import SCORE_FUNCTIONS, read_best_counts, select_counts

MAX_LEADERS = 10
"""Trials that get an interval; those ranked below are not tied in practice."""
MAX_FINALISTS = 3
_ORDER = {"finished": 0, "stopped": 1, "unfinished": 2, "diverged": 3, "failed": 4}


@dataclass(frozen=True, slots=True)
class RankedTrial:
    """A trial, its score, and its place among the others.

    ``score``: at the best epoch; over folds, of the counts of all folds together. None while the
    trial has no score. ``best_epoch``: counted from 1; None of folds, which have one each.
    ``interval``: 95 % interval of the score over the validation cases. ``gain``: 95 % interval of
    the winner's lead over this trial, from paired cases. ``is_tied``: the lead may be 0.
    ``counts``: (C, K, K), of a finished trial, by case: of windows, segments or milliseconds.
    ``cases``: pseudonyms of these cases; empty in checkpoints that are older than the record.
    """

    trial: Trial
    score: float | None = None
    best_epoch: int | None = None
    interval: Interval | None = None
    gain: Interval | None = None
    is_tied: bool = False
    counts: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    cases: tuple[str, ...] = field(default=(), repr=False)

    def is_paired_with(self, other: Self) -> bool:
        """Return True if both trials have counts of the same validation cases.

        Windows of another size may lose a case, and the number of cases does not tell which.
        """
        if self.counts is None or other.counts is None:
            return False
        return len(self.counts) == len(other.counts) and self.cases == other.cases


def rank_trials(trials: Sequence[Trial], metric: RankedMetric) -> list[RankedTrial]:
    """Rank trials: finished, stopped, unfinished, diverged, failed; the best first in each.

    The first ``MAX_LEADERS`` get intervals, all from the same resamples of the validation cases,
    and are compared with the first one, see ``compare_with``.
    """
    rows = [_score(trial, metric) for trial in trials]
    rows.sort(key=lambda row: (_ORDER[row.trial.state], -(row.score or 0.0), row.trial.number))
    leaders = [_add_interval(row, metric) for row in rows[:MAX_LEADERS]]
    rows = [*leaders, *rows[MAX_LEADERS:]]
    return compare_with(rows, rows[0], metric) if rows else []


def compare_with(
    ranked: Sequence[RankedTrial], winner: RankedTrial, metric: RankedMetric
) -> list[RankedTrial]:
    """Compare the leading trials with the winner; the order of the ranking stays.

    A finished trial is tied with the winner when the interval of their paired difference reaches 0.
    Trials with other validation cases, or with a single one, are not compared.
    """
    score_fn = SCORE_FUNCTIONS[metric]
    rows = []
    for row in ranked:
        gain = None
        if row.interval is not None and row.trial.number != winner.trial.number:
            gain = _lead_interval(winner, row, score_fn)
        rows.append(replace(row, gain=gain, is_tied=gain is not None and gain.low <= 0))
    return rows


def choose_finalists(ranked: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Return the first trial and those tied with it, at most ``MAX_FINALISTS``.

    Args:
        ranked: From ``rank_trials``: compared with the first trial.
    """
    finished = [row for row in ranked if row.trial.state == "finished"]
    tied = [row for row in finished[1:] if row.is_tied]
    return [*finished[:1], *tied][:MAX_FINALISTS]


def choose_winner(
    ranked: Sequence[RankedTrial], repeats: Sequence[Trial], metric: RankedMetric
) -> RankedTrial | None:
    """Return the first trial or, with repeats, the finalist with the best mean over its repeats.

    Only seeds under which all finalists were repeated count: they are compared under the same
    luck. The score that made a trial a finalist does not enter its mean: it was selected for being
    high. None if no trial is finished.

    Args:
        ranked: From ``rank_trials``: compared with the first trial.
        repeats: Repeats of finalists.
        metric: Score that is maximised.
    """
    finalists = {row.trial.number: row for row in choose_finalists(ranked)}
    shared = find_shared_seeds(repeats, list(finalists), metric)
    if shared:
        means = {
            number: float(np.mean([by_seed[seed] for seed in shared]))
            for number in finalists
            for by_seed in [scores_by_seed(repeats, number, metric)]
        }
        return finalists[max(means, key=lambda number: means[number])]
    return next(iter(finalists.values()), None)


def find_shared_seeds(
    repeats: Sequence[Trial], numbers: Sequence[int], metric: RankedMetric
) -> list[int]:
    """Return the seeds under which all of the trials with these numbers were repeated."""
    seeds = [set(scores_by_seed(repeats, number, metric)) for number in numbers]
    return sorted(set.intersection(*seeds)) if seeds else []


def scores_by_seed(repeats: Sequence[Trial], number: int, metric: RankedMetric) -> dict[int, float]:
    """Return the score of each repeat of a trial, by its seed; one that diverged has the lowest."""
    own = [repeat for repeat in repeats if repeat.number == number]
    finished = {
        repeat.seed or 0: repeat.scored[metric] for repeat in own if repeat.state == "finished"
    }
    diverged = {repeat.seed or 0: LOWEST_SCORE for repeat in own if repeat.state == "diverged"}
    return finished | diverged


def f1_by_phase(row: RankedTrial, phases: Sequence[str]) -> dict[str, float] | None:
    """Return the F1 of each phase that occurs in the validation windows."""
    if row.counts is None:
        return None
    confusion = row.counts.sum(axis=0)
    present = confusion.sum(axis=1) > 0
    scores = f1_per_class(confusion)
    return {phase: float(scores[i]) for i, phase in enumerate(phases) if present[i]}


def format_table(
    ranked: Sequence[RankedTrial], metric: RankedMetric, names: Sequence[str]
) -> bytes:
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
                trial.num_epochs,
                round(trial.seconds, 1),
                *(trial.settings[name] for name in names),
                trial.reason,
            ]
        )
    return text.getvalue().encode()


def _score(trial: Trial, metric: RankedMetric) -> RankedTrial:
    if not trial.is_scored:
        return RankedTrial(trial)
    # folds have a best epoch each
    best_epoch = None if trial.num_folds else int(trial.scored["epoch"]) + 1
    ranked = RankedTrial(trial, trial.scored[metric], best_epoch)
    if trial.state != "finished":
        return ranked
    counts = read_best_counts(trial)
    return replace(ranked, counts=select_counts(counts, metric, trial.run), cases=counts.cases)


def _add_interval(row: RankedTrial, metric: RankedMetric) -> RankedTrial:
    if row.counts is None or row.score is None or len(row.counts) == 1:
        return row  # one case says nothing about others
    resampled = bootstrap_scores(row.counts, SCORE_FUNCTIONS[metric])
    interval = score_interval(row.score, resampled, len(row.counts), row.trial.num_folds)
    return replace(row, interval=interval)


def _lead_interval(winner: RankedTrial, other: RankedTrial, score: ScoreFn) -> Interval | None:
    """Return the interval of the winner's lead over another trial, from paired cases."""
    best, own = winner.counts, other.counts
    if best is None or own is None or not winner.is_paired_with(other):
        return None
    differences = bootstrap_scores(best, score) - bootstrap_scores(own, score)
    lead = (winner.score or 0.0) - (other.score or 0.0)
    return difference_interval(lead, differences, len(own), winner.trial.num_folds)
