"""Predicted timelines and their truth → a score card, with intervals over cases.

All scores come from counts of each case, which add up; a bootstrap resample adds up its own cases
and is scored by the same function.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics import classification as m
from ophnet_ray.metrics.bootstrap import bootstrap_scores, percentile_interval
from ophnet_ray.metrics.score_card import PhaseScore, Score, ScoreCard
from ophnet_ray.metrics.segmental import OVERLAPS, edit_score, segment_counts, segmental_f1
from ophnet_ray.metrics.timelines import NOT_ANNOTATED

TOP_K = 3
_PER_CLASS = {
    "f1": m.f1_per_class,
    "precision": m.precision_per_class,
    "recall": m.recall_per_class,
    "jaccard": m.jaccard_per_class,
}
_OVER: dict[m.Over, str] = {
    "present": "the phases among the labels",
    "all": "all declared phases, 0 for absent ones (the challenge's public scorer)",
    "present_or_predicted": "the phases among labels or predictions (scikit-learn's default)",
}
_WITHOUT_INTERVAL = ("video_accuracy_std", "aptos_rank_score_ceiling")
CONVENTIONS = {
    "frame_accuracy": "share of all annotated frames that are right",
    "macro_f1_present": f"mean F1 over {_OVER['present']}",
    "video_accuracy": "mean over videos of their frame accuracy (APTOS)",
    "aptos_rank_score": "(video_accuracy + macro_f1_all) / 2",
    "aptos_rank_score_ceiling": "what perfect predictions score: absent phases count 0",
    "segmental_edit": "1 - normalised edit distance of the order of phases, mean over videos",
    **{
        f"segmental_f1@{overlap * 100:.0f}": f"F1 of segments that overlap {overlap:.0%} (MS-TCN)"
        for overlap in OVERLAPS
    },
    "balanced_accuracy": "mean recall over the phases among the labels",
    f"top_{TOP_K}_accuracy": f"the label is among the {TOP_K} most probable; not smoothed",
    "expected_calibration_error": "mean |confidence - accuracy| in 15 bins; not smoothed",
    "video_accuracy_std": "standard deviation over videos of their frame accuracy",
    **{
        f"macro_{name}_{over}": f"mean {name} over {text}"
        for name in _PER_CLASS
        for over, text in _OVER.items()
    },
}
"""Scores by name, in the order of the card, and what each means, in one line."""


@dataclass(frozen=True, slots=True)
class ScoredVideo:
    """One video at its frame times.

    ``truth``: (N,), ``NOT_ANNOTATED`` where nothing is, and such frames are left out;
    ``prediction``: (N,) final labels, ``NO_PREDICTION`` where there is none, which is wrong;
    ``probabilities``: (N, K), rows of NaN likewise.
    """

    video_id: str
    case_id: str
    times_s: NDArray[np.float64]
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """What adds up over videos: all that the scores need.

    ``videos``: number, sum of accuracies, sum of their squares, sum of edit scores, (4,);
    ``segments``: (overlaps, 3); ``top_k``: hits and frames, (2,); ``calibration``: (bins, 3).
    """

    confusion: NDArray[Any]
    videos: NDArray[Any]
    segments: NDArray[Any]
    top_k: NDArray[Any]
    calibration: NDArray[Any]

    def to_vector(self) -> NDArray[np.float64]:
        """All counts in one row; float64 holds whole numbers up to 2^53, and adds them fast."""
        parts = (self.confusion, self.videos, self.segments, self.top_k, self.calibration)
        return np.concatenate([part.ravel().astype(np.float64) for part in parts])

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64], num_classes: int) -> "Counts":
        """Back from ``to_vector``."""
        shapes = (
            (num_classes, num_classes + 1),
            (4,),
            (len(OVERLAPS), 3),
            (2,),
            (m.CALIBRATION_BINS, 3),
        )
        stops = np.cumsum([math.prod(shape) for shape in shapes])
        parts = np.split(vector, stops[:-1])
        return cls(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))


def count_video(video: ScoredVideo, num_classes: int) -> Counts | None:
    """Count one video; None when none of its frames is annotated.

    Segments are those of the annotated frames one after the other: what lies between is no phase.
    """
    is_annotated = video.truth != NOT_ANNOTATED
    if not is_annotated.any():
        return None
    truth, prediction = video.truth[is_annotated], video.prediction[is_annotated]
    probabilities = video.probabilities[is_annotated]
    confusion = m.confusion_with_missing(truth, prediction, num_classes)
    right = m.accuracy(confusion)
    known = ~np.isnan(probabilities[:, 0])
    best = np.nan_to_num(probabilities).argmax(axis=1)
    confidence = probabilities[np.arange(len(best)), best]
    return Counts(
        confusion,
        np.asarray([1, right, right**2, edit_score(truth, prediction)]),
        np.stack([segment_counts(truth, prediction, overlap) for overlap in OVERLAPS]),
        np.asarray([m.top_k_hits(truth, probabilities, TOP_K).sum(), len(truth)]),
        m.calibration_counts(confidence[known], (best == truth)[known]),
    )


def score_counts(counts: Counts) -> dict[str, float]:
    """All scores, by the names of ``CONVENTIONS`` and in their order."""
    confusion = counts.confusion
    per_class = {name: score(confusion) for name, score in _PER_CLASS.items()}
    macros = {
        f"macro_{name}_{over}": m.macro(values, confusion, over)
        for name, values in per_class.items()
        for over in _OVER
    }
    num_videos, sum_right, sum_squares, sum_edit = counts.videos
    video_accuracy = sum_right / max(num_videos, 1)
    variance = sum_squares / max(num_videos, 1) - video_accuracy**2
    ceiling = m.aptos_rank_score(1.0, m.reachable_macro_f1_all(confusion))
    values = macros | {
        "frame_accuracy": m.accuracy(confusion),
        "video_accuracy": video_accuracy,
        "video_accuracy_std": math.sqrt(max(variance, 0.0)),
        "aptos_rank_score": m.aptos_rank_score(video_accuracy, macros["macro_f1_all"]),
        "aptos_rank_score_ceiling": ceiling,
        "segmental_edit": sum_edit / max(num_videos, 1),
        "balanced_accuracy": macros["macro_recall_present"],
        f"top_{TOP_K}_accuracy": counts.top_k[0] / max(counts.top_k[1], 1),
        "expected_calibration_error": m.expected_calibration_error(counts.calibration),
    }
    for overlap, row in zip(OVERLAPS, counts.segments, strict=True):
        values[f"segmental_f1@{overlap * 100:.0f}"] = segmental_f1(row)
    return {name: float(values[name]) for name in CONVENTIONS}


class CaseScores:
    """The scores of a set of cases, and of resamples of them.

    Args:
        videos: At least one with an annotated frame.
        num_classes: K.
    """

    def __init__(self, videos: Iterable[ScoredVideo], num_classes: int) -> None:
        by_case: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        self.num_videos = 0
        for video in videos:
            counts = count_video(video, num_classes)
            if counts is not None:
                by_case[video.case_id].append(counts.to_vector())
                self.num_videos += 1
        self._by_case = np.stack([np.sum(rows, axis=0) for rows in by_case.values()])
        self._num_classes = num_classes
        self.num_cases = len(by_case)
        self.counts = Counts.from_vector(self._by_case.sum(axis=0), num_classes)
        self.values = score_counts(self.counts)

    def resampled(self) -> NDArray[np.float64]:
        """(R, scores): the same cases are drawn for each object with as many cases."""

        def score(vector: NDArray[np.float64]) -> list[float]:
            return list(score_counts(Counts.from_vector(vector, self._num_classes)).values())

        return bootstrap_scores(self._by_case, score)


def build_score_card(
    scores: CaseScores, split: str, phases: Sequence[str], num_train_cases: Sequence[int]
) -> ScoreCard:
    """The card, with 95 % intervals over cases; one case alone has none."""
    confusion = scores.counts.confusion.astype(np.int64)
    resampled = scores.resampled() if scores.num_cases > 1 else None
    named = []
    for i, (name, value) in enumerate(scores.values.items()):
        interval = None
        if resampled is not None and name not in _WITHOUT_INTERVAL:
            interval = percentile_interval(resampled[:, i])
        named.append(Score(name, value, CONVENTIONS[name], interval))
    columns = [score(confusion) for score in _PER_CLASS.values()]
    support = confusion.sum(axis=1)
    by_phase = tuple(
        PhaseScore(
            phase,
            **{name: float(c[i]) for name, c in zip(_PER_CLASS, columns, strict=True)},
            support=int(support[i]),
            num_train_cases=num_train_cases[i],
        )
        for i, phase in enumerate(phases)
    )
    return ScoreCard(
        split,
        "frames",
        scores.num_cases,
        scores.num_videos,
        int(confusion.sum()),
        tuple(phases),
        tuple(named),
        by_phase,
        confusion,
    )


def compare_scores(
    before: CaseScores, after: CaseScores, names: Sequence[str]
) -> Mapping[str, Score]:
    """Gains of one decoding over another on the same cases, paired case by case."""
    order = list(CONVENTIONS)
    differences = None
    if before.num_cases > 1:
        differences = after.resampled() - before.resampled()
    gains = {}
    for name in names:
        gain = after.values[name] - before.values[name]
        interval = None
        if differences is not None:
            interval = percentile_interval(differences[:, order.index(name)])
        gains[name] = Score(name, gain, f"gain in {name}", interval)
    return gains
