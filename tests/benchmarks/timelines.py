"""Decoding over time on real predictions: 20 videos of Cholec80, one label per second.

Everything that is learnt (order and durations of phases, confusion of the labels, choice of the
decoder, refiner) comes from the other folds: five folds by case. Predictions are hard labels of a
published model; the probabilities behind them are those of the truth given the label, counted on
the other folds. The choice of the decoder is nested: it is made on the other folds, each decoded
with what the rest of them teaches: on the videos that taught it, any order is trusted too much.

The refiner has the product's defaults, but for its size and half of the epochs. The epoch is chosen
as in a training run, by the macro-F1 of cases that do not train: each of the other folds in turn is
left out for it, and the four models vote with their mean probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import TrainingConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.sequences import HeldValues, LabelledSequence
from ophnet_ray.inference.decoder_tuning import (
    Candidate,
    choose_candidate,
    count_labels,
    decode_with_each,
    list_candidates,
)
from ophnet_ray.metrics.bootstrap import score_interval
from ophnet_ray.metrics.classification import confusion_counts
from ophnet_ray.metrics.scoring import CONVENTIONS, CaseScores, ScoredVideo, compare_scores
from ophnet_ray.metrics.timelines import cut_segments
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics
from ophnet_ray.models.temporal_fit import fit_head, predict_sequence
from ophnet_ray.temporal_config import TemporalConfig
from tests.benchmarks.table import Figure
from tests.helpers.paths import SHARED_DATA

PREDICTIONS = SHARED_DATA / "cholec80_predictions"
NUM_PHASES, NUM_FOLDS = 7, 5
PHASES = {str(label): label for label in range(NUM_PHASES)}
STATED = 0.9
"""Probability that a fine-tuned network states, or more, for its label."""
SHOWN = (
    "video_accuracy",
    "video_jaccard",
    "segmental_edit",
    "segmental_f1@10",
    "segmental_f1@50",
    "segments_ratio",
)
TARGETS = {"tuned": ">= 0.78", "refiner": ">= 0.79"}
REFINER = TemporalConfig(
    temporal="mstcn",
    temporal_input="log_probs",
    temporal_layers=7,
    temporal_stages=1,
    temporal_channels=32,
    temporal_epochs=20,
)
"""480 steps: an epoch takes each of 12 videos twice."""
HISTOGRAM_S = 5


@dataclass(frozen=True)
class Fold:
    """Videos of the other folds and of this one, with what is learnt from the former.

    ``inner``: the other folds, each with what the rest of them teaches.
    """

    train: Sequence[ScoredVideo]
    test: Sequence[ScoredVideo]
    dynamics: PhaseDynamics
    inner: Sequence["Fold"]


def compare_decoders(_: Path) -> list[Figure]:
    """Score each way of decoding, every video in the fold that has not seen it."""
    if not PREDICTIONS.is_dir():
        return []
    videos = read_videos()
    folds = [_learn(videos, number) for number in range(NUM_FOLDS)]
    ways: dict[str, Callable[[Fold], list[NDArray[np.int64]]]] = {
        "raw": lambda fold: [video.prediction for video in fold.test],
        "median": lambda fold: _decode(fold, Candidate("median")),
        "viterbi": lambda fold: _decode(fold, Candidate("viterbi"), stated=True),
        "tuned": tune_and_decode,
        "refiner": refine,
    }
    figures, raw = [], None
    for name, decode in ways.items():
        scores = CaseScores(
            [
                replace(video, prediction=labels)
                for fold in folds
                for video, labels in zip(fold.test, decode(fold), strict=True)
            ],
            NUM_PHASES,
        )
        raw = raw or scores
        figures += _list_figures(name, scores, raw)
    return figures


def read_videos() -> list[ScoredVideo]:
    """Read truth and predicted labels; each video is a case."""
    videos = []
    for file in sorted((PREDICTIONS / "truth").iterdir()):
        truth, labels = (
            np.loadtxt(PREDICTIONS / kind / file.name, dtype=np.int64)[:, 1]
            for kind in ("truth", "predicted")
        )
        videos.append(ScoredVideo(file.stem, truth, labels, _state(labels)))
    return videos


def tune_and_decode(fold: Fold) -> list[NDArray[np.int64]]:
    """Choose a decoder on the other folds and decode this one."""
    candidates = list_candidates(fold.dynamics)
    counts = {}
    for inner in fold.inner:
        for video in inner.test:
            decoded = decode_with_each(video.probabilities, candidates, inner.dynamics, 1.0)
            counts[video.case_id] = [count_labels(video.truth, decoded, NUM_PHASES)]
    return _decode(fold, choose_candidate(candidates, counts).kept)


def refine(fold: Fold) -> list[NDArray[np.int64]]:
    """Train temporal models on the labels of the other folds, and predict this one."""
    models = []
    for inner in fold.inner:
        train, val = ([_as_sequence(v) for v in videos] for videos in (inner.train, inner.test))
        models.append(fit_head(train, val, NUM_PHASES, REFINER, TrainingConfig(use_gpu="false")))
    values = [_as_sequence(video).read_values() for video in fold.test]
    return [
        np.mean([predict_sequence(model, rows) for model in models], axis=0).argmax(axis=1)
        for rows in values
    ]


def _learn(videos: Sequence[ScoredVideo], left_out: int, inside: int | None = None) -> Fold:
    """Learn from the videos of the other folds, and for a choice among them again without each.

    Args:
        videos: All videos.
        left_out: Fold that teaches nothing.
        inside: Another one, which is then the fold to predict.
    """
    fold_of = [i % NUM_FOLDS for i in range(len(videos))]
    tested = left_out if inside is None else inside
    train = [v for v, fold in zip(videos, fold_of, strict=True) if fold not in (left_out, inside)]
    confusion = np.sum([confusion_counts(v.truth, v.prediction, NUM_PHASES) for v in train], axis=0)
    of_label = ((confusion + 1) / (confusion + 1).sum(axis=0)).T.astype(np.float32)
    segments = [
        Segment(f"{v.case_id}:{s.start_s}", v.case_id, v.case_id, s.start_s, s.end_s, str(s.label))
        for v in train
        for s in cut_segments(np.arange(len(v.truth), dtype=np.float64), v.truth, 1.0)
    ]
    test = [v for v, fold in zip(videos, fold_of, strict=True) if fold == tested]
    others = [] if inside is not None else [n for n in range(NUM_FOLDS) if n != left_out]
    return Fold(
        train,
        # the probabilities of the truth, given the label
        [replace(video, probabilities=of_label[video.prediction]) for video in test],
        learn_dynamics(segments, PHASES),
        [_learn(videos, left_out, number) for number in others],
    )


def _decode(fold: Fold, candidate: Candidate, *, stated: bool = False) -> list[NDArray[np.int64]]:
    return [
        next(
            decode_with_each(
                _state(video.prediction) if stated else video.probabilities,
                [candidate],
                fold.dynamics,
                1.0,
            )
        )
        for video in fold.test
    ]


def _state(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return probabilities of a network that is sure of its labels, (N, K)."""
    others = (1 - STATED) / (NUM_PHASES - 1)
    return (np.eye(NUM_PHASES) * (STATED - others) + others)[labels].astype(np.float32)


def _as_sequence(video: ScoredVideo) -> LabelledSequence:
    """Return the share of each label in the seconds around each time, as values of the refiner."""
    window = np.ones(HISTOGRAM_S) / HISTOGRAM_S
    one_hot = np.eye(NUM_PHASES)[video.prediction]
    shares = [np.convolve(column, window, mode="same") for column in one_hot.T]
    values = np.stack(shares, axis=1).astype(np.float32)
    return LabelledSequence(video.case_id, video.case_id, video.truth, HeldValues(values))


def _list_figures(name: str, scores: CaseScores, raw: CaseScores) -> list[Figure]:
    columns = dict(zip(CONVENTIONS, scores.resampled.T, strict=True))
    gain = compare_scores(raw, scores, ["video_jaccard"])["video_jaccard"]
    figures = []
    for score in SHOWN:
        value, note = scores.values[score], ""
        if score != "segments_ratio":
            low, high = score_interval(value, columns[score], scores.num_cases)
            note = f"[{low:.3f}, {high:.3f}]"
        if score == "video_jaccard" and gain.value:
            note += (
                f", gain {gain.value:+.3f} [{gain.interval.low:+.3f}, {gain.interval.high:+.3f}]"
            )
        target = TARGETS.get(name, "") if score == "video_jaccard" else ""
        figures.append(Figure(f"{name}: {score}", value, note, target))
    return figures
