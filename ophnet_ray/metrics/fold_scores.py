"""Scores of cross-validation: spread over the folds, and the cases, the worst first."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, interval_over_cases
from ophnet_ray.metrics.classification import accuracy, macro_f1_present


@dataclass(frozen=True, slots=True, eq=False)
class FoldCounts:
    """Counts of the cases of a fold under the model that was trained without them.

    ``cases``: their ids, C; ``counts``: (C, K, K), row = label, column = prediction;
    ``milliseconds``: the same in milliseconds of annotated video, where they chose the epoch.
    """

    cases: tuple[str, ...]
    counts: NDArray[Any]
    milliseconds: NDArray[np.float64] | None = None

    @property
    def of_time(self) -> "FoldCounts | None":
        """The counts in milliseconds, by which the scores are those of the annotated time."""
        return None if self.milliseconds is None else FoldCounts(self.cases, self.milliseconds)

    @property
    def pooled(self) -> NDArray[Any]:
        """Sum over the cases, (K, K)."""
        return np.asarray(self.counts.sum(axis=0))

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the phases among the labels of the fold."""
        return macro_f1_present(self.pooled)

    @property
    def accuracy(self) -> float:
        """Share of the windows, frames or milliseconds of the fold that are right."""
        return accuracy(self.pooled)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the macro-F1 over the cases of the fold; None for a single case."""
        return interval_over_cases(self.counts, macro_f1_present)


@dataclass(frozen=True, slots=True)
class HeldOutCase:
    """Scores of one case by itself, under the model that has not seen it.

    ``fold``: from 1; ``macro_f1``: mean over the phases of the case; ``num_units``: windows or
    frames. ``mistakes``: the most frequent ones as (label, prediction, count). ``frame_macro_f1``,
    ``frame_accuracy``: of the annotated time, where it chose the epochs.
    """

    case_id: str
    fold: int
    num_units: int
    macro_f1: float
    accuracy: float
    mistakes: tuple[tuple[int, int, int], ...]
    frame_macro_f1: float | None = None
    frame_accuracy: float | None = None

    @property
    def chosen_scores(self) -> tuple[float, float]:
        """Macro-F1 and accuracy of the unit that chose the epochs."""
        if self.frame_macro_f1 is None or self.frame_accuracy is None:
            return self.macro_f1, self.accuracy
        return self.frame_macro_f1, self.frame_accuracy


@dataclass(frozen=True, slots=True)
class FoldSpread:
    """Spread of a score over the folds; ``deviation`` is the standard deviation of a sample."""

    mean: float
    deviation: float
    low: float
    high: float


def measure_spread(scores: Sequence[float]) -> FoldSpread:
    """Return mean, standard deviation and ends of the scores of two folds or more."""
    return FoldSpread(statistics.fmean(scores), statistics.stdev(scores), min(scores), max(scores))


def rank_held_out_cases(folds: Sequence[FoldCounts], num_mistakes: int = 2) -> list[HeldOutCase]:
    """Score each case by itself; the lowest macro-F1 of the unit that chose epochs comes first."""
    cases = [
        HeldOutCase(
            case_id,
            number,
            int(counts.sum()),
            macro_f1_present(counts),
            accuracy(counts),
            find_mistakes(counts, num_mistakes),
            *(() if time is None else (macro_f1_present(time), accuracy(time))),
        )
        for number, fold in enumerate(folds, 1)
        for case_id, counts, time in zip(
            fold.cases,
            fold.counts,
            [None] * len(fold.cases) if fold.milliseconds is None else fold.milliseconds,
            strict=True,
        )
    ]
    return sorted(cases, key=lambda case: (*case.chosen_scores, case.case_id))


def find_mistakes(confusion: NDArray[np.int64], number: int) -> tuple[tuple[int, int, int], ...]:
    """Return the most frequent mistakes of a confusion (K, K) as (label, prediction, count)."""
    counts = confusion.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:number]
    pairs = [divmod(int(index), counts.shape[1]) for index in order]
    return tuple((*pair, int(counts[pair])) for pair in pairs if counts[pair])
