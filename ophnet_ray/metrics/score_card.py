"""Scores of one model on one split: the values that reports, tables and ``scores.json`` show."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, ScoreFn, interval_over_cases
from ophnet_ray.metrics.classification import (
    accuracy,
    balanced_accuracy,
    f1_per_class,
    jaccard_per_class,
    macro_f1_all,
    macro_f1_present,
    precision_per_class,
    recall_per_class,
    share_of_present,
)

WINDOW_SCORES: dict[str, tuple[Callable[[NDArray[np.int64]], float], str]] = {
    "macro_f1_present": (macro_f1_present, "mean F1 over the phases among the labels"),
    "window_accuracy": (accuracy, "share of all windows that are right"),
    "balanced_accuracy": (balanced_accuracy, "mean recall over the phases among the labels"),
    "macro_f1_all": (macro_f1_all, "mean F1 over all declared phases, 0 for absent ones"),
}
"""Scores of the validation windows, in the order of the card, and their conventions."""
TIME_SCORES: dict[str, tuple[Callable[[NDArray[Any]], float], str]] = {
    "frame_macro_f1_present": (
        macro_f1_present,
        "macro_f1_present, each window counted by the annotated time that it stands for",
    ),
    "frame_accuracy": (accuracy, "share of the annotated time whose windows are right"),
}
"""Scores of the annotated time, likewise."""


@dataclass(frozen=True, slots=True)
class Score:
    """A score, its convention in one line, and its 95 % interval over cases.

    ``name`` includes the convention (``macro_f1_present``). ``interval`` is None where a single
    case was scored, or where the score has no spread over cases.
    """

    name: str
    value: float
    convention: str
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of this score: the interval as ``low`` and ``high``."""
        low, high = self.interval or (None, None)
        return {
            "name": self.name,
            "value": self.value,
            "convention": self.convention,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, slots=True)
class PhaseScore:
    """Scores of one phase, each in [0, 1]; ``support`` is the number of its frames or windows."""

    phase: str
    precision: float
    recall: float
    f1: float
    jaccard: float
    support: int
    num_train_cases: int


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """Scores of one model on one split, the most important first.

    ``num_units``: number of frames or windows that were scored. ``confusion``: int64 (K, K), row =
    label, column = prediction; (K, K+1) for frames, whose last column counts those without a
    prediction, which are wrong.
    """

    split: str
    unit: Literal["frames", "windows"]
    num_cases: int
    num_videos: int
    num_units: int
    phases: tuple[str, ...]
    scores: tuple[Score, ...]
    by_phase: tuple[PhaseScore, ...]
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``scores.json``."""
        return asdict(self) | {
            "scores": [score.to_dict() for score in self.scores],
            "confusion": self.confusion.tolist(),
        }


def format_score(score: Score) -> str:
    """Return the value with four digits, followed by the 95 % interval if there is one."""
    if score.interval is None:
        return f"{score.value:.4f}"
    return f"{score.value:.4f}  [{score.interval.low:.4f}, {score.interval.high:.4f}]"


def fix_terms(score: ScoreFn, confusion: NDArray[np.int64]) -> ScoreFn:
    """Return the function that scores a resample: its terms are the phases of the whole sample.

    Args:
        score: Score of a confusion.
        confusion: Counts of the whole sample.
    """
    if score is not macro_f1_all:
        return score
    share = share_of_present(confusion, "all")
    return lambda resample: share * macro_f1_present(resample)


def score_phases(
    confusion: NDArray[np.int64], phases: Sequence[str], num_train_cases: Sequence[int]
) -> tuple[PhaseScore, ...]:
    """Score each phase of a confusion (K, K) or (K, K+1).

    Args:
        confusion: Counts, row = label, column = prediction.
        phases: K names.
        num_train_cases: Training cases of each phase, K.
    """
    precision, recall = precision_per_class(confusion), recall_per_class(confusion)
    f1, jaccard = f1_per_class(confusion), jaccard_per_class(confusion)
    support = confusion.sum(axis=1)
    return tuple(
        PhaseScore(
            phase,
            precision=float(precision[label]),
            recall=float(recall[label]),
            f1=float(f1[label]),
            jaccard=float(jaccard[label]),
            support=int(support[label]),
            num_train_cases=num_train_cases[label],
        )
        for label, phase in enumerate(phases)
    )


def build_window_card(
    confusion_by_case: NDArray[np.int64],
    phases: Sequence[str],
    num_train_cases: Sequence[int],
    num_videos: int,
    unit: Literal["frames", "windows"] = "windows",
    milliseconds_by_case: NDArray[np.float64] | None = None,
    num_folds: int | None = None,
) -> ScoreCard:
    """Build the card of the validation windows, with 95 % intervals over the cases.

    Args:
        confusion_by_case: Counts of the windows of each case, (C, K, K); of a temporal model those
            of the frames.
        phases: K names.
        num_train_cases: Training cases of each phase, K.
        num_videos: Videos that the windows are from.
        unit: Units that were counted.
        milliseconds_by_case: The same counts in milliseconds of annotated video, where they chose
            the model; their scores come first.
        num_folds: Number of folds of which the cases are pooled; None for a single run.
    """
    confusion = confusion_by_case.sum(axis=0)
    timed = () if milliseconds_by_case is None else _score_time(milliseconds_by_case, num_folds)
    return ScoreCard(
        split="val",
        unit=unit,
        num_cases=len(confusion_by_case),
        num_videos=num_videos,
        num_units=int(confusion.sum()),
        phases=tuple(phases),
        scores=(
            *timed,
            *(
                Score(
                    name.replace("window", unit[:-1]),
                    float(score(confusion)),
                    convention.replace("windows", unit),
                    interval_over_cases(confusion_by_case, fix_terms(score, confusion), num_folds),
                )
                for name, (score, convention) in WINDOW_SCORES.items()
            ),
        ),
        by_phase=score_phases(confusion, phases, num_train_cases),
        confusion=confusion,
    )


def _score_time(
    milliseconds_by_case: NDArray[np.float64], num_folds: int | None
) -> Iterator[Score]:
    """Yield the scores of the annotated time."""
    total = milliseconds_by_case.sum(axis=0)
    for name, (score, convention) in TIME_SCORES.items():
        interval = interval_over_cases(milliseconds_by_case, score, num_folds)
        yield Score(name, float(score(total)), convention, interval)
