"""What is known of a model after it was scored: plain values that every report shows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Score:
    """One figure, its 95 % interval over cases (None where there is none) and its convention.

    ``name`` tells the convention too (``macro_f1_present``); ``convention`` is one line for people.
    """

    name: str
    value: float
    convention: str
    low: float | None = None
    high: float | None = None


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
