"""Scores of one model on one split: the values that reports, tables and ``scores.json`` show."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval


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
    """Scores of one phase, each in [0, 1]; ``support`` counts its true frames or windows."""

    phase: str
    precision: float
    recall: float
    f1: float
    jaccard: float
    support: int
    num_train_cases: int


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """The scores of one model on one split.

    ``unit`` is what was counted, ``num_units`` how many. ``scores`` begin with the ones to look at
    first. ``confusion``: int64 (K, K), row = label, column = prediction; where frames without a
    prediction were counted as wrong, it has one column more for them, (K, K+1).
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


@dataclass(frozen=True, slots=True)
class WorstFrame:
    """A frame that was predicted wrong with confidence, as a small JPEG."""

    time_s: float
    truth: int
    prediction: int
    confidence: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class VideoTimeline:
    """The phases of one video over time, as label indices at ascending times.

    ``times_s``: float64 (N,); ``prediction``: int64 (N,); ``confidence``: float32 (N,) in [0, 1];
    ``truth``: int64 (N,), -1 where nothing is annotated, None without annotations; ``smoothed``:
    int64 (N,), None without smoothing.
    """

    video_id: str
    times_s: NDArray[np.float64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float32]
    truth: NDArray[np.int64] | None = None
    smoothed: NDArray[np.int64] | None = None
    worst: tuple[WorstFrame, ...] = ()
