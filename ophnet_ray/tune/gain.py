"""The gain of a search over the settings as given: measured, and said in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.gain import Contender, Gain, estimate_gain
from ophnet_ray.train.epoch_counts import read_epoch_counts
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.ranking import (
    ROW_SCORES,
    RankedTrial,
    choose_finalists,
    find_shared_seeds,
    read_best_counts,
    select_counts,
)
from ophnet_ray.tune.trial import Trial, best_record


@dataclass(frozen=True, slots=True)
class SearchGain:
    """Gain of a search.

    ``statement``: one sentence. ``lead``: of the winner over the settings as given on the cases
    that chose it, which is the search's own estimate. ``estimate``: gain on cases that did not
    choose. Both are None where there is none, and the statement says why. ``num_trials``: trials
    that could be chosen. ``num_uncounted``: stopped trials without counts, from before they were
    kept.
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
) -> SearchGain:
    """Measure the gain over the user's own settings.

    Args:
        ranked: All trials, from ``rank_trials``: compared with the first one.
        repeats: Repeats of finalists.
        winner: The chosen trial.
        base: The user's own values of the searched settings.
        metric: Score that is maximised.
    """
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
    if not winner.is_paired_with(first):
        return SearchGain(
            f"{name} were scored on other validation cases: there is no gain to report"
        )
    lead = winner.score - first.score
    contenders, num_uncounted = _list_contenders(ranked, repeats, first, metric)
    estimate = estimate_gain(contenders, ROW_SCORES[metric])
    statement = _describe(name, lead, estimate)
    return SearchGain(statement, lead, estimate, len(contenders), num_uncounted)


def _describe(name: str, lead: float, estimate: Gain | None) -> str:
    if estimate is None:
        return (
            f"{lead:+.3f} over {name} on the cases that chose it; there are too few others to "
            "confirm it"
        )
    low, high = estimate.interval
    optimism = lead - estimate.value
    own = f"the search's own estimate, {lead:+.3f}, was "
    own += f"optimistic by {optimism:.3f}" if optimism >= 0.0005 else "not optimistic"
    return (
        f"{estimate.value:+.3f} over {name} on validation cases that did not choose it, 95 % "
        f"interval {low:+.3f} to {high:+.3f}; {own}"
    )


def _list_contenders(
    ranked: Sequence[RankedTrial],
    repeats: Sequence[Trial],
    first: RankedTrial,
    metric: RankedMetric,
) -> tuple[list[Contender], int]:
    """Return the trials that might have been chosen, and the number of those without counts.

    Args:
        ranked: All trials.
        repeats: Repeats of finalists.
        first: The trial with the settings as given.
        metric: Score that is maximised.
    """
    by_number = _counts_of_repeats(ranked, repeats, metric)
    contenders, num_uncounted = [], 0
    for row in ranked:
        if row.counts is not None and first.counts is not None and row.is_paired_with(first):
            own_repeats = by_number.get(row.trial.number, ())
            contenders.append(Contender(row.counts, first.counts, own_repeats))
        elif row.trial.state == "stopped":
            stopped = _compare_stopped(row.trial, first.trial, metric)
            num_uncounted += stopped is None
            contenders += [stopped] if stopped else []
    return contenders, num_uncounted


def _compare_stopped(trial: Trial, base: Trial, metric: RankedMetric) -> Contender | None:
    """Pair a stopped trial with the settings as given after as many epochs; None without counts."""
    num_epochs = len(trial.history)
    if not 0 < num_epochs <= len(base.history):
        return None
    own, given = (
        read_epoch_counts(each.run, int(best_record(each.history[:num_epochs])["epoch"]))
        for each in (trial, base)
    )
    if own is None or given is None or own.cases != given.cases:
        return None
    own_counts, given_counts = select_counts(own, metric), select_counts(given, metric)
    is_paired = len(own_counts) == len(given_counts)
    return Contender(own_counts, given_counts) if is_paired else None


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
            own = select_counts(read_best_counts(repeat), metric)
        counts[repeat.number] = (*counts.get(repeat.number, ()), own)
    return counts
