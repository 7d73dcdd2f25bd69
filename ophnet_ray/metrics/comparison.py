"""Comparison of two models on the same cases: differences, intervals and tests in pairs.

The interval of a difference is that of the paired bootstrap: both models are scored on the same
resamples of the cases, see ``bootstrap``. The p-value is that of ``exchange``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, bootstrap_scores, difference_interval
from ophnet_ray.metrics.classification import accuracy, f1_per_class, macro_f1_present
from ophnet_ray.metrics.exchange import adjust_p_values, exchange_p_values
from ophnet_ray.metrics.score_card import WINDOW_SCORES, fix_terms
from ophnet_ray.metrics.scoring import (
    CONVENTIONS,
    WITHOUT_INTERVAL,
    CaseScores,
    Counts,
    score_counts,
    share_classes,
)

MAIN_SCORE = "macro_f1_present"
"""Score that decides whether two models are different."""

VectorScore = Callable[[NDArray[np.float64]], Sequence[float]]
"""Sum of the counts of cases (V,) → scores, in the order of their conventions."""


@dataclass(frozen=True)
class ComparedModel:
    """Counts of one model by case, and the functions that score sums of them.

    ``unit``: what was counted, e.g. ``frames``; ``by_case``: (C, V), where a case begins with its
    confusion, (K, ``columns``); ``score_resample``: the same scores with the phases of the whole
    sample as terms; ``conventions``: names of the scores, each with its meaning in one line.
    ``num_folds``: folds over which the cases are pooled; None for those of one model.
    """

    name: str
    unit: str
    phases: tuple[str, ...]
    cases: tuple[str, ...]
    by_case: NDArray[np.float64]
    columns: int
    score: VectorScore
    score_resample: VectorScore
    conventions: Mapping[str, str]
    num_folds: int | None = None

    def confusion_of(self, vector: NDArray[np.float64]) -> NDArray[Any]:
        """Return the confusion in a sum of counts, (K, columns)."""
        size = len(self.phases) * self.columns
        return vector[:size].reshape(len(self.phases), self.columns)

    @property
    def support_by_case(self) -> NDArray[np.float64]:
        """Units of each phase in each case, by their labels, (C, K)."""
        return np.stack([self.confusion_of(row).sum(axis=1) for row in self.by_case])


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of both models, and the second minus the first.

    ``interval``: 95 % interval of the difference; ``p_value``: of the exchange of both models. Both
    are None where the score has no spread over cases.
    """

    name: str
    before: float
    after: float
    interval: Interval | None
    p_value: float | None
    convention: str = ""

    @property
    def value(self) -> float:
        """The difference."""
        return self.after - self.before

    def reversed(self) -> "Difference":
        """Return the difference of the first model to the second."""
        ends = self.interval and Interval(-self.interval.high, -self.interval.low)
        return replace(self, before=self.after, after=self.before, interval=ends)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object: the interval as ``low`` and ``high``."""
        low, high = self.interval or (None, None)
        values = asdict(self) | {"difference": self.value, "low": low, "high": high}
        del values["interval"]
        return values


@dataclass(frozen=True, slots=True)
class PhaseDifference:
    """F1 of one phase; ``p_holm``: p-value over all phases together; cases that show the phase."""

    f1: Difference
    p_holm: float
    num_cases: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        content = self.f1.to_dict() | {"p_holm": self.p_holm, "num_cases": self.num_cases}
        content["phase"] = content.pop("name")
        del content["convention"]
        return content


@dataclass(frozen=True, slots=True)
class CaseDifference:
    """Macro-F1 and accuracy of one case by itself, under both models."""

    case: str
    f1_before: float
    f1_after: float
    accuracy_before: float
    accuracy_after: float

    @property
    def value(self) -> float:
        """The difference of macro-F1."""
        return self.f1_after - self.f1_before


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases: the second minus the first, in every score.

    ``phases`` and ``cases`` are sorted: the largest change first. ``num_differing``: cases on which
    the models have different counts.
    """

    before: str
    after: str
    unit: str
    num_cases: int
    num_differing: int
    scores: tuple[Difference, ...]
    phases: tuple[PhaseDifference, ...]
    cases: tuple[CaseDifference, ...]

    @property
    def main(self) -> Difference:
        """The score that decides."""
        return next(each for each in self.scores if each.name == MAIN_SCORE)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "before": self.before,
            "after": self.after,
            "unit": self.unit,
            "num_cases": self.num_cases,
            "num_differing": self.num_differing,
            "scores": [each.to_dict() for each in self.scores],
            "phases": [each.to_dict() for each in self.phases],
            "cases": [asdict(each) for each in self.cases],
        }


def compare_models(before: ComparedModel, after: ComparedModel) -> Comparison:
    """Compare two models on the same cases, which stand in the same order in both.

    A phase that few cases show has an interval of as few cases. Intervals of cases that are pooled
    over folds, in both models, are widened, see ``bootstrap``; the p-values are those over cases.
    """
    pair, num_scores = (before, after), len(before.conventions)
    values = [_score_all(model, model.by_case.sum(axis=0)) for model in pair]
    p_values = exchange_p_values(before.by_case, after.by_case, partial(_score_all, before))
    resampled = [bootstrap_scores(m.by_case, partial(_score_resample, m)) for m in pair]
    shown_in = (before.support_by_case > 0).sum(axis=0)
    num_cases = [len(before.cases)] * num_scores + shown_in.tolist()
    rows = [
        _build_difference(
            name, values[0][i], values[1][i], resampled[1][:, i] - resampled[0][:, i],
            float(p_values[i]), num_cases[i], before.num_folds,
        )
        for i, name in enumerate([*before.conventions, *before.phases])
    ]  # fmt: skip
    scores, of_phases = rows[:num_scores], rows[num_scores:]
    return Comparison(
        before.name,
        after.name,
        before.unit,
        len(before.cases),
        int((before.by_case != after.by_case).any(axis=1).sum()),
        tuple(_describe_score(each, before.conventions[each.name]) for each in scores),
        _adjust_phases([(f1, n) for f1, n in zip(of_phases, shown_in.tolist(), strict=True) if n]),
        _compare_cases(before, after),
    )


def count_frames(name: str, phases: Sequence[str], scores: CaseScores) -> ComparedModel:
    """Take the frame scores of a model, as ``evaluate`` computes them."""
    shares = share_classes(scores.counts.confusion)

    def score(vector: NDArray[np.float64]) -> list[float]:
        return list(score_counts(Counts.from_vector(vector, scores.num_classes)).values())

    def score_resample(vector: NDArray[np.float64]) -> list[float]:
        return list(score_counts(Counts.from_vector(vector, scores.num_classes), shares).values())

    return ComparedModel(
        name,
        "frames",
        tuple(phases),
        scores.case_ids,
        scores.by_case,
        len(phases) + 1,
        score,
        score_resample,
        CONVENTIONS,
    )


def count_windows(
    name: str,
    phases: Sequence[str],
    cases: Sequence[str],
    confusion_by_case: NDArray[Any],
    unit: str = "windows",
    num_folds: int | None = None,
) -> ComparedModel:
    """Take the validation windows of a training run, (C, K, K), or what else was counted there.

    ``num_folds``: folds over which the cases are pooled; None for those of one model.
    """
    functions = [function for function, _ in WINDOW_SCORES.values()]
    whole = confusion_by_case.sum(axis=0)

    def score(vector: NDArray[Any]) -> list[float]:
        return [function(vector.reshape(whole.shape)) for function in functions]

    def score_resample(vector: NDArray[np.float64]) -> list[float]:
        confusion = vector.reshape(whole.shape)
        return [float(np.asarray(fix_terms(each, whole)(confusion))) for each in functions]

    return ComparedModel(
        name,
        unit,
        tuple(phases),
        tuple(cases),
        confusion_by_case.reshape(len(confusion_by_case), -1).astype(np.float64),
        len(phases),
        score,
        score_resample,
        {
            key.replace("window", unit[:-1]): convention.replace("windows", unit)
            for key, (_, convention) in WINDOW_SCORES.items()
        },
        num_folds,
    )


def _score_all(model: ComparedModel, vector: NDArray[np.float64]) -> list[float]:
    """Return the scores, then the F1 of each phase."""
    return [*model.score(vector), *f1_per_class(model.confusion_of(vector))]


def _score_resample(model: ComparedModel, vector: NDArray[np.float64]) -> list[float]:
    """Return the same of a resample; the F1 of a phase that no case of it shows is NaN."""
    confusion = model.confusion_of(vector)
    f1 = np.where(confusion.sum(axis=1) > 0, f1_per_class(confusion), np.nan)
    return [*model.score_resample(vector), *f1]


def _build_difference(
    name: str,
    before: float,
    after: float,
    resampled: NDArray[np.float64],
    p_value: float,
    num_cases: int,
    num_folds: int | None,
) -> Difference:
    interval = None
    known = resampled[~np.isnan(resampled)]
    if num_cases > 1 and len(known):
        interval = difference_interval(after - before, known, num_cases, num_folds)
    return Difference(name, float(before), float(after), interval, p_value)


def _describe_score(score: Difference, convention: str) -> Difference:
    if score.name in WITHOUT_INTERVAL:
        return replace(score, interval=None, p_value=None, convention=convention)
    return replace(score, convention=convention)


def _adjust_phases(rows: Sequence[tuple[Difference, int]]) -> tuple[PhaseDifference, ...]:
    adjusted = adjust_p_values([f1.p_value or 0.0 for f1, _ in rows])
    phases = [
        PhaseDifference(f1, p_holm, n) for (f1, n), p_holm in zip(rows, adjusted, strict=True)
    ]
    return tuple(sorted(phases, key=lambda phase: -abs(phase.f1.value)))


def _compare_cases(before: ComparedModel, after: ComparedModel) -> tuple[CaseDifference, ...]:
    cases = []
    for case, *rows in zip(before.cases, before.by_case, after.by_case, strict=True):
        first, second = (before.confusion_of(row) for row in rows)
        cases.append(
            CaseDifference(
                case,
                macro_f1_present(first),
                macro_f1_present(second),
                accuracy(first),
                accuracy(second),
            )
        )
    return tuple(sorted(cases, key=lambda each: -abs(each.value)))
