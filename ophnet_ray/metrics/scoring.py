"""Frame scores of a split: counts of each video → the score card, with intervals over cases.

All scores are computed from sums of counts: over all cases for the score, over the cases of a
resample for its interval.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics import classification
from ophnet_ray.metrics.bootstrap import (
    bootstrap_scores,
    difference_interval,
    score_interval,
)
from ophnet_ray.metrics.classification import ClassSelection
from ophnet_ray.metrics.score_card import Score, ScoreCard, score_phases
from ophnet_ray.metrics.segmental import OVERLAPS, edit_score, segment_counts, segmental_f1
from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.metrics.video_scores import RELAXED_S, score_phases_of_video

TOP_K = 3
_PER_CLASS = {
    "f1": classification.f1_per_class,
    "precision": classification.precision_per_class,
    "recall": classification.recall_per_class,
    "jaccard": classification.jaccard_per_class,
}
_CLASSES: dict[ClassSelection, str] = {
    "present": "the phases among the labels",
    "all": "all declared phases, 0 for absent ones (the APTOS challenge's public scorer)",
    "present_or_predicted": "the phases among labels or predictions (scikit-learn's default)",
}
_SPELLING = {"f1": "F1", "jaccard": "Jaccard index"}
_PER_VIDEO = (
    "video_accuracy",
    "video_jaccard",
    "video_precision",
    "video_recall",
    "relaxed_10s_accuracy",
    "relaxed_10s_jaccard",
    "relaxed_10s_precision",
    "relaxed_10s_recall",
    "segmental_edit",
)
"""Scores that each video has by itself; the score of a split is their mean over videos."""
WITHOUT_INTERVAL = (
    "aptos_rank_score_ceiling",
    "segments_ratio",
    *(f"{name}_std" for name in _PER_VIDEO[:-1]),
)
"""Scores that are no share, or say how videos differ: they get no interval."""
_RELAXED = "within 10 s of a true boundary both phases count as right: compare with relaxed only"
_DEVIATION = "standard deviation over videos, whose sum of squares is divided by their number,"
CONVENTIONS = {
    "frame_accuracy": "share of all annotated frames that are right",
    "macro_f1_present": f"mean F1 over {_CLASSES['present']}",
    "video_accuracy": "frame accuracy of each video, mean over videos (APTOS)",
    "aptos_rank_score": "(video_accuracy + macro_f1_all) / 2",
    "aptos_rank_score_ceiling": "aptos_rank_score of perfect predictions: absent phases count 0",
    "segmental_edit": "1 - normalised edit distance between the orders of phases, mean over videos",
    **{
        f"segmental_f1@{overlap * 100:.0f}": (
            f"F1 of segments; a match overlaps by at least {overlap:.0%} (MS-TCN)"
        )
        for overlap in OVERLAPS
    },
    "video_jaccard": (
        "Jaccard index of each phase in each video, mean over the video's true phases, then over "
        "videos (Cholec80)"
    ),
    "segments_ratio": "predicted segments ÷ true segments; above 1: over-segmentation",
    "balanced_accuracy": "mean recall over the phases among the labels",
    f"top_{TOP_K}_accuracy": (
        f"share of frames whose phase is among the {TOP_K} most probable; without smoothing"
    ),
    "expected_calibration_error": "mean |confidence - accuracy| in 15 bins; without smoothing",
    "video_precision": "as video_jaccard, of the precision; phases never predicted are left out",
    "video_recall": "as video_jaccard, of the recall",
    "relaxed_10s_accuracy": f"as video_accuracy; {_RELAXED} (Cholec80, Evaluate.m)",
    "relaxed_10s_jaccard": f"as video_jaccard; {_RELAXED}",
    "relaxed_10s_precision": f"as video_precision, cut at 1; {_RELAXED}",
    "relaxed_10s_recall": f"as video_recall, cut at 1; {_RELAXED}",
    "video_accuracy_std": f"{_DEVIATION} of their frame accuracy",
    **{f"{name}_std": f"{_DEVIATION} of {name}" for name in _PER_VIDEO[1:-1]},
    **{
        f"macro_{name}_{classes}": f"mean {_SPELLING.get(name, name)} over {text}"
        for name in _PER_CLASS
        for classes, text in _CLASSES.items()
    },
}
"""Scores by name, in the order of the card, and the convention of each in one line."""


@dataclass(frozen=True, slots=True)
class ScoredVideo:
    """Labels of one video at its N frame times.

    ``truth``: (N,), ``NOT_ANNOTATED`` between segments: such frames are not scored;
    ``prediction``: (N,) final labels, ``NO_PREDICTION`` where there is none: such frames are wrong;
    ``probabilities``: (N, K), NaN where there is no prediction; ``frame_rate``: frame times per
    second, for scores with a tolerance in seconds.
    """

    case_id: str
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    frame_rate: float = 1.0


@dataclass(frozen=True)
class Counts:
    """Sums over videos, from which all scores are computed.

    ``confusion``: (K, K+1); ``videos``: number, then sums of the scores of ``_PER_VIDEO``, then
    sums of their squares, (19,); ``segments``: hits, false positives and false negatives at each
    overlap, (overlaps, 3); ``top_k``: hits and frames, (2,); ``calibration``: (bins, 3).
    """

    confusion: NDArray[Any]
    videos: NDArray[Any]
    segments: NDArray[Any]
    top_k: NDArray[Any]
    calibration: NDArray[Any]

    def to_vector(self) -> NDArray[np.float64]:
        """Concatenate all counts; float64 adds fast and holds whole numbers up to 2^53."""
        parts = (self.confusion, self.videos, self.segments, self.top_k, self.calibration)
        return np.concatenate([part.ravel().astype(np.float64) for part in parts])

    @classmethod
    def from_vector(cls, vector: NDArray[np.float64], num_classes: int) -> "Counts":
        """Split the vector of ``to_vector``."""
        shapes = (
            (num_classes, num_classes + 1),
            (1 + 2 * len(_PER_VIDEO),),
            (len(OVERLAPS), 3),
            (2,),
            (classification.CALIBRATION_BINS, 3),
        )
        stops = np.cumsum([math.prod(shape) for shape in shapes])
        parts = np.split(vector, stops[:-1])
        return cls(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))


def count_video(video: ScoredVideo, num_classes: int) -> Counts | None:
    """Count one video; None if none of its frames is annotated.

    Frames between annotated segments are removed before stretches of equal labels are compared.
    """
    is_annotated = video.truth != NOT_ANNOTATED
    if not is_annotated.any():
        return None
    truth, prediction = video.truth[is_annotated], video.prediction[is_annotated]
    probabilities = video.probabilities[is_annotated]
    confusion = classification.confusion_with_missing(truth, prediction, num_classes)
    strict = score_phases_of_video(truth, prediction)
    # with the gaps: the tolerance is one in time
    relaxed = score_phases_of_video(
        video.truth, video.prediction, round(RELAXED_S * video.frame_rate)
    )
    by_video = np.asarray([*strict, *relaxed, edit_score(truth, prediction)])
    known = ~np.isnan(probabilities[:, 0])
    best = np.nan_to_num(probabilities).argmax(axis=1)
    confidence = probabilities[np.arange(len(best)), best]
    return Counts(
        confusion,
        np.concatenate([[1], by_video, by_video**2]),
        np.stack([segment_counts(truth, prediction, overlap) for overlap in OVERLAPS]),
        np.asarray([classification.top_k_hits(truth, probabilities, TOP_K).sum(), len(truth)]),
        classification.calibration_counts(confidence[known], (best == truth)[known]),
    )


def share_classes(confusion: NDArray[Any]) -> dict[ClassSelection, float]:
    """Return ``classification.share_of_present`` under each selection of classes."""
    return {classes: classification.share_of_present(confusion, classes) for classes in _CLASSES}


def score_counts(
    counts: Counts, shares: Mapping[ClassSelection, float] | None = None
) -> dict[str, float]:
    """Compute all scores, by the names of ``CONVENTIONS`` and in their order.

    Args:
        counts: Sums over videos.
        shares: For a resample: ``share_classes`` of the whole sample. Its phases remain the terms
            of each mean over phases. Otherwise a phase that few cases show would count 0 in each
            resample without these cases, and the score of every resample would be too low.
    """
    confusion = counts.confusion
    per_class = {name: score(confusion) for name, score in _PER_CLASS.items()}
    macros = {
        f"macro_{name}_{classes}": (
            classification.macro_mean(values, confusion, classes)
            if shares is None
            else shares[classes] * classification.macro_mean(values, confusion, "present")
        )
        for name, values in per_class.items()
        for classes in _CLASSES
    }
    num_videos, (means, squares) = counts.videos[0], counts.videos[1:].reshape(2, -1)
    means, squares = means / max(num_videos, 1), squares / max(num_videos, 1)
    by_video = dict(zip(_PER_VIDEO, means.tolist(), strict=True))
    deviations = np.sqrt(np.maximum(squares - means**2, 0)).tolist()
    by_video |= {f"{name}_std": d for name, d in zip(_PER_VIDEO, deviations, strict=True)}
    hits, false_positives, false_negatives = counts.segments[0]
    ceiling = classification.aptos_rank_score(1.0, classification.reachable_macro_f1_all(confusion))
    values = (
        macros
        | by_video
        | {
            "frame_accuracy": classification.accuracy(confusion),
            "aptos_rank_score": classification.aptos_rank_score(
                by_video["video_accuracy"], macros["macro_f1_all"]
            ),
            "aptos_rank_score_ceiling": ceiling,
            "segments_ratio": (hits + false_positives) / max(hits + false_negatives, 1),
            "balanced_accuracy": macros["macro_recall_present"],
            f"top_{TOP_K}_accuracy": counts.top_k[0] / max(counts.top_k[1], 1),
            "expected_calibration_error": classification.expected_calibration_error(
                counts.calibration
            ),
        }
    )
    for overlap, row in zip(OVERLAPS, counts.segments, strict=True):
        values[f"segmental_f1@{overlap * 100:.0f}"] = segmental_f1(row)
    return {name: float(values[name]) for name in CONVENTIONS}


class CaseScores:
    """Scores of a set of cases, and of resamples of these cases.

    Args:
        videos: At least one of them has an annotated frame.
        num_classes: K.

    Attributes:
        by_case: Counts of each case, (C, counts), as ``Counts.to_vector`` orders them.
    """

    def __init__(self, videos: Iterable[ScoredVideo], num_classes: int) -> None:
        by_case: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        self.num_videos = 0
        for video in videos:
            counts = count_video(video, num_classes)
            if counts is not None:
                by_case[video.case_id].append(counts.to_vector())
                self.num_videos += 1
        self.by_case = np.stack([np.sum(rows, axis=0) for rows in by_case.values()])
        self.num_classes = num_classes
        self.case_ids = tuple(by_case)
        self.num_cases = len(by_case)
        self.counts = Counts.from_vector(self.by_case.sum(axis=0), num_classes)
        self.values = score_counts(self.counts)

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """Scores of resamples of the cases, (R, scores); equal draws for equally many cases."""
        shares = share_classes(self.counts.confusion)

        def score(vector: NDArray[np.float64]) -> list[float]:
            counts = Counts.from_vector(vector, self.num_classes)
            return list(score_counts(counts, shares).values())

        return bootstrap_scores(self.by_case, score)


def build_score_card(
    scores: CaseScores, split: str, phases: Sequence[str], num_train_cases: Sequence[int]
) -> ScoreCard:
    """Build the score card, with 95 % intervals over cases; a single case has none.

    Args:
        scores: Scores of the split.
        split: Its name.
        phases: K names.
        num_train_cases: Training cases of each phase, K.
    """
    confusion = scores.counts.confusion.astype(np.int64)
    resampled = scores.resampled if scores.num_cases > 1 else None
    named = []
    for i, (name, value) in enumerate(scores.values.items()):
        interval = None
        if resampled is not None and name not in WITHOUT_INTERVAL:
            interval = score_interval(value, resampled[:, i], scores.num_cases)
        named.append(Score(name, value, CONVENTIONS[name], interval))
    return ScoreCard(
        split=split,
        unit="frames",
        num_cases=scores.num_cases,
        num_videos=scores.num_videos,
        num_units=int(confusion.sum()),
        phases=tuple(phases),
        scores=tuple(named),
        by_phase=score_phases(confusion, phases, num_train_cases),
        confusion=confusion,
    )


def compare_scores(
    before: CaseScores, after: CaseScores, names: Sequence[str]
) -> Mapping[str, Score]:
    """Return the gain in each score from one decoding to another on the same cases, in pairs.

    Raises:
        ValueError: The cases are others, or in another order: there are no pairs.
    """
    if before.case_ids != after.case_ids:
        raise ValueError("the scores to compare are of different cases")
    order = list(CONVENTIONS)
    differences = None
    if before.num_cases > 1:
        differences = after.resampled - before.resampled
    gains = {}
    for name in names:
        gain = after.values[name] - before.values[name]
        interval = None
        if differences is not None:
            column = differences[:, order.index(name)]
            interval = difference_interval(gain, column, before.num_cases)
        gains[name] = Score(name, gain, f"gain in {name}", interval)
    return gains
