"""The gain of a search over the settings as given: measured, and said in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.gain import Contender, Gain, estimate_gain
from ophnet_ray.train.epoch_counts import read_epoch_counts
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.ranking import RankedTrial, choose_finalists, find_shared_seeds
from ophnet_ray.tune.trial import Trial, best_record
from ophnet_ray.tune.trial_counts import ROW_SCORES, read_best_counts, select_counts

FEW_CASES = 5
"""Validation cases up to which no interval finds a gain of 0.15 in 80 % of searches: simulated by
``python -m tests.benchmarks searches``."""
FEW_FOLD_CASES = 10
"""Cases of folds up to which a lead of 0.12 to 0.13 is found in less than a third of searches:
simulated by ``python -m tests.benchmarks folds``, for five folds."""


@dataclass(frozen=True, slots=True)
class SearchGain:
    """Gain of a search.

    ``statement``: one sentence. ``lead``: of the winner over the settings as given on the cases
    that chose it, which is the search's own estimate. ``estimate``: gain on cases that did not
    choose. Both are None where there is none, and the statement says why. ``num_trials``: trials
    that could be chosen. ``num_uncounted``: stopped trials that could not be compared with a
    survivor, see ``_list_stopped``.
    """

    statement: str
    lead: float | None = None
    estimate: Gain | None = None
    num_trials: int = 0
    num_uncounted: int = 0

    @property
    def optimism(self) -> float | None:
        """Lead that the winner owes to the cases that chose it."""
        if self.lead is None or self.estimate is None:
            return None
        return self.lead - self.estimate.value

    def __str__(self) -> str:
        """Return the statement."""
        return self.statement

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "statement": self.statement,
            "own_estimate": self.lead,
            "out_of_bag": None if self.estimate is None else self.estimate.to_dict(),
            "optimism": self.optimism,
            "trials_that_could_be_chosen": self.num_trials,
            "stopped_trials_without_counts": self.num_uncounted,
        }


def measure_gain(
    ranked: Sequence[RankedTrial],
    repeats: Sequence[Trial],
    winner: RankedTrial,
    base: Mapping[str, Any],
    metric: RankedMetric,
    *,
    is_reshuffled: bool = False,
) -> SearchGain:
    """Measure the gain over the user's own settings.

    With another holdout for each trial there is none to measure: the out-of-bag estimate repeats
    the choice on resamples of cases that all trials have in common.

    Args:
        ranked: All trials, from ``rank_trials``: compared with the first one.
        repeats: Repeats of finalists.
        winner: The chosen trial.
        base: The user's own values of the searched settings.
        metric: Score that is maximised.
        is_reshuffled: True if each trial had a holdout of its own.
    """
    if is_reshuffled:
        return SearchGain(
            "chosen among trials with a holdout of their own each (--reshuffle): their scores "
            "differ by the cases, too, so no gain over the settings as given is stated; score both "
            "on cases that chose nothing"
        )
    first = next((row for row in ranked if dict(row.trial.settings) == dict(base)), None)
    if first is None:
        return SearchGain(
            "the settings as given were not tried: there is no gain over them to report"
        )
    name = f"the settings as given (trial {first.trial.name})"
    if first.trial.state != "finished" or first.score is None or winner.score is None:
        return SearchGain(f"{name} are {first.trial.state}: there is no gain over them to report")
    if first.trial.number == winner.trial.number:
        return SearchGain(f"no trial was better than {name}", 0.0)
    if first.counts is None or not winner.is_paired_with(first):
        return SearchGain(
            f"{name} were scored on other validation cases: there is no gain to report"
        )
    lead = winner.score - first.score
    by_number = _counts_of_repeats(ranked, repeats, metric)
    finished = [row for row in ranked if row.is_paired_with(first)]
    contenders = [
        Contender(row.counts, by_number.get(row.trial.number, ()))
        for row in finished
        if row.counts is not None
    ]
    stopped = [row.trial for row in ranked if row.trial.state == "stopped"]
    compared = _list_stopped(stopped, first, [row for row in finished if row is not first], metric)
    estimate = estimate_gain(
        [*contenders, *compared], first.counts, ROW_SCORES[metric], first.trial.num_folds
    )
    statement = _describe(name, lead, estimate, len(first.counts), first.trial.num_folds)
    num_trials = len(contenders) + len(compared)
    return SearchGain(statement, lead, estimate, num_trials, len(stopped) - len(compared))


def _describe(
    name: str, lead: float, estimate: Gain | None, num_cases: int, num_folds: int | None
) -> str:
    if estimate is None:
        return (
            f"{lead:+.3f} over {name} on the cases that chose it; there are too few others to "
            "confirm it"
        )
    low, high = estimate.interval
    optimism = lead - estimate.value
    own = f"the search's own estimate, {lead:+.3f}, was "
    own += f"optimistic by {optimism:.3f}" if optimism >= 0.0005 else "not optimistic"
    missed = _say_missed(num_cases, num_folds) if low <= 0 else ""
    return (
        f"{estimate.value:+.3f} over {name} on validation cases that did not choose it, 95 % "
        f"interval {low:+.3f} to {high:+.3f}; {own}{missed}"
    )


def _say_missed(num_cases: int, num_folds: int | None) -> str:
    """Return what a search over few cases may well miss, as the end of a sentence."""
    if num_folds is None and num_cases <= FEW_CASES:
        share = f"of {num_cases} cases, a true gain of 0.15 is missed in a quarter"
    elif num_folds is not None and num_cases <= FEW_FOLD_CASES:
        share = f"over folds of {num_cases} cases, a true gain of 0.12 is missed in two thirds"
    else:
        return ""
    return f"; {share} of searches or more"


def _list_stopped(
    stopped: Sequence[Trial],
    first: RankedTrial,
    survivors: Sequence[RankedTrial],
    metric: RankedMetric,
) -> list[Contender]:
    """Return the stopped trials that can be compared with a survivor after as many epochs.

    The counts of that epoch may be missing (earlier versions did not keep them), damaged, or of
    other validation cases.

    Args:
        stopped: Stopped trials.
        first: Trial with the settings as given.
        survivors: Other finished trials on the same cases.
        metric: Score that is maximised.
    """
    contenders = []
    # trials are stopped at few epochs: those of the survivors are read once
    known: dict[int, tuple[tuple[NDArray[Any], NDArray[Any]], ...]] = {}
    for trial in stopped:
        num_epochs = len(trial.history)
        own = _read_counts(trial, num_epochs, first, metric)
        if own is None:
            continue
        if num_epochs not in known:
            pairs = [
                (_read_counts(row.trial, num_epochs, first, metric), row.counts)
                for row in survivors
            ]
            known[num_epochs] = tuple(
                (then, end) for then, end in pairs if then is not None and end is not None
            )
        if known[num_epochs]:
            contenders.append(Contender(own, survivors=known[num_epochs]))
    return contenders


def _read_counts(
    trial: Trial, num_epochs: int, first: RankedTrial, metric: RankedMetric
) -> NDArray[Any] | None:
    """Read the counts at the best of the first epochs; None if they are not of the same cases."""
    if not 0 < num_epochs <= len(trial.history):
        return None
    counts = read_epoch_counts(trial.run, int(best_record(trial.history[:num_epochs])["epoch"]))
    if counts is None or counts.cases != first.cases:
        return None
    selected = select_counts(counts, metric, trial.run)
    return selected if first.counts is not None and len(selected) == len(first.counts) else None


def _counts_of_repeats(
    ranked: Sequence[RankedTrial], repeats: Sequence[Trial], metric: RankedMetric
) -> dict[int, tuple[NDArray[Any], ...]]:
    """Return the counts of each finalist under the seeds that all finalists have."""
    finalists = {row.trial.number: row for row in choose_finalists(ranked)}
    seeds = find_shared_seeds(repeats, list(finalists), metric)
    counts: dict[int, tuple[NDArray[Any], ...]] = {}
    for repeat in repeats:
        row = finalists.get(repeat.number)
        if row is None or row.counts is None or repeat.seed not in seeds:
            continue
        # one that diverged scores 0
        own = np.zeros_like(row.counts)
        if repeat.state == "finished":
            own = select_counts(read_best_counts(repeat), metric, repeat.run)
        counts[repeat.number] = (*counts.get(repeat.number, ()), own)
    return counts
