"""Scores of probabilities, with intervals over cases: calibration error, Brier score, likelihood.

All of them are of the probabilities of single frames, without smoothing; frames without annotation
or prediction are left out. Scores are computed from sums over cases.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import Interval, draw_cases, free_interval, score_interval
from ophnet_ray.metrics.classification import CALIBRATION_BINS, calibration_counts
from ophnet_ray.metrics.score_card import Score
from ophnet_ray.metrics.scoring import ScoredVideo
from ophnet_ray.metrics.temperature import MIN_PROBABILITY
from ophnet_ray.metrics.timelines import NOT_ANNOTATED

NUM_BINS = 10
CONVENTIONS = {
    "expected_calibration_error": (
        f"mean |confidence - accuracy| in {CALIBRATION_BINS} bins of equal width, weighted by "
        "frames (arXiv:1706.04599)"
    ),
    "brier_score": (
        "mean over frames of the squared distance between the probabilities and the truth, summed "
        "over phases: 0 to 2 (Brier, 1950)"
    ),
    "negative_log_likelihood": (
        "mean over frames of -log of the true phase's probability, natural logarithm; "
        f"probabilities below {MIN_PROBABILITY:g} count as that"
    ),
}
"""Scores of probabilities by name; lower is better."""
_MAX_BRIER = 2.0


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Frames whose confidence lies next to each other: as many as in each other bin.

    ``low``, ``high``: ends of their confidences; ``confidence``, ``accuracy``: means over the
    frames; ``interval``: 95 % interval of the accuracy over cases, None where a single case has
    frames here, or all frames are right or all wrong: cases that do not differ tell no spread.
    """

    low: float
    high: float
    num_frames: int
    num_cases: int
    confidence: float
    accuracy: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        low, high = self.interval or (None, None)
        return {
            "confidence_from": self.low,
            "confidence_to": self.high,
            "frames": self.num_frames,
            "cases": self.num_cases,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
        }


class ProbabilityScores:
    """Scores of the probabilities of a set of cases.

    Args:
        videos: Truth and probabilities; their final labels are not used.

    Attributes:
        by_case: Sums of each case with a scored frame, (C, 3 + 3 bins): frames, Brier scores,
            losses, and the counts of ``calibration_counts``.
        bins: Reliability diagram: bins of equal mass, the lowest confidence first.
    """

    def __init__(self, videos: Iterable[ScoredVideo]) -> None:
        sums: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        frames: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for video in videos:
            own, pairs = _count(video)
            if own[0]:
                sums[video.case_id].append(own)
                frames[video.case_id].append(pairs)
        self.case_ids = tuple(sums)
        self.by_case = np.asarray([np.sum(rows, axis=0) for rows in sums.values()])
        self.bins = _bin_frames([np.concatenate(parts) for parts in frames.values()])

    def list_scores(self) -> tuple[Score, ...]:
        """Return the scores with their 95 % intervals; a single case has none, no case no score."""
        num_cases = len(self.by_case)
        if not num_cases:
            return ()
        values = _score_rows(self.by_case.sum(axis=0)[None])[0].tolist()
        scores = []
        for i, (name, value) in enumerate(zip(CONVENTIONS, values, strict=True)):
            interval = (
                None if num_cases == 1 else _interval(name, value, self.resampled[:, i], num_cases)
            )
            scores.append(Score(name, value, CONVENTIONS[name], interval))
        return tuple(scores)

    def gain_over(self, before: "ProbabilityScores") -> Mapping[str, Score]:
        """Return by how much each score is lower than before on the same cases, in pairs.

        Raises:
            ValueError: The cases are others, or in another order.
        """
        if self.case_ids != before.case_ids:
            raise ValueError("the scores to compare are of different cases")
        num_cases = len(self.by_case)
        sides = (before.by_case, self.by_case)
        old, new = (_score_rows(side.sum(axis=0)[None])[0] for side in sides)
        differences = before.resampled - self.resampled
        return {
            name: Score(
                name,
                float(old[i] - new[i]),
                f"gain in {name}: before - after",
                free_interval(float(old[i] - new[i]), differences[:, i], num_cases)
                if num_cases > 1
                else None,
            )
            for i, name in enumerate(CONVENTIONS)
        }

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """Scores of resamples of the cases, (R, 3); equal draws for equally many cases."""
        return _score_rows(draw_cases(len(self.by_case)) @ self.by_case)


def _count(video: ScoredVideo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of one video, and confidence and rightness of its scored frames, (N, 2)."""
    is_scored = (video.truth != NOT_ANNOTATED) & ~np.isnan(video.probabilities[:, 0])
    truth = video.truth[is_scored]
    probabilities = video.probabilities[is_scored].astype(np.float64)
    rows = np.arange(len(truth))
    right = probabilities[rows, truth]
    brier = (probabilities**2).sum(axis=1) - 2 * right + 1
    loss = -np.log(np.maximum(right, MIN_PROBABILITY))
    best = probabilities.argmax(axis=1)
    confidence, is_right = probabilities[rows, best], best == truth
    counts = calibration_counts(confidence.astype(np.float32), is_right)
    sums = np.concatenate([[len(truth), brier.sum(), loss.sum()], counts.ravel()])
    return sums, np.stack([confidence, is_right], axis=1)


def _score_rows(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of each row of sums, (R, 3 + 3 bins) → (R, 3)."""
    frames = np.maximum(sums[:, :1], 1)
    bins = sums[:, 3:].reshape(len(sums), CALIBRATION_BINS, 3)
    error = np.abs(bins[:, :, 1] - bins[:, :, 2]).sum(axis=1, keepdims=True)
    return np.asarray(np.concatenate([error, sums[:, 1:3]], axis=1) / frames)


def _interval(name: str, value: float, resampled: NDArray[np.float64], num_cases: int) -> Interval:
    if name == "negative_log_likelihood":
        low, high = free_interval(value, resampled, num_cases)
        return Interval(max(low, 0.0), high)
    scale = _MAX_BRIER if name == "brier_score" else 1.0
    low, high = score_interval(value / scale, resampled / scale, num_cases)
    return Interval(low * scale, high * scale)


def _bin_frames(by_case: Sequence[NDArray[np.float64]]) -> tuple[ReliabilityBin, ...]:
    """Cut the frames of all cases, (N, 2) each, into bins of equal mass by their confidence."""
    if not by_case:
        return ()
    pairs = np.concatenate(by_case)
    case_of = np.repeat(np.arange(len(by_case)), [len(own) for own in by_case])
    edges = np.unique(np.quantile(pairs[:, 0], np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    bin_of = np.searchsorted(edges, pairs[:, 0], side="left")
    bins = []
    for number in np.unique(bin_of).tolist():
        is_here = bin_of == number
        confidence, is_right = pairs[is_here].T
        counts = np.stack(
            [
                np.bincount(case_of[is_here], weights, minlength=len(by_case))
                for weights in (None, is_right)
            ],
            axis=1,
        ).astype(np.float64)
        bins.append(
            ReliabilityBin(
                low=float(confidence.min()),
                high=float(confidence.max()),
                num_frames=len(confidence),
                num_cases=int((counts[:, 0] > 0).sum()),
                confidence=float(confidence.mean()),
                accuracy=float(is_right.mean()),
                interval=_accuracy_interval(counts[counts[:, 0] > 0]),
            )
        )
    return tuple(bins)


def _accuracy_interval(counts: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % interval of an accuracy; None where cases do not differ.

    Args:
        counts: Frames and hits of each case, (C, 2).
    """
    if len(counts) == 1 or counts[:, 1].sum() in (0, counts[:, 0].sum()):
        return None
    frames, hits = (draw_cases(len(counts)) @ counts).T
    return score_interval(
        float(counts[:, 1].sum() / counts[:, 0].sum()), hits / frames, len(counts)
    )
