"""Decoding over time on real predictions: 20 videos of Cholec80, one label per second.

Everything that is learnt (order and durations of phases, confusion of the labels, choice of the
decoder, refiner) comes from the other folds: five folds by case. Predictions are hard labels of a
published model; the probabilities behind them are those of the truth given the label, counted on
the other folds. The choice of the decoder is nested: it is made on the other folds, each decoded
with what the rest of them teaches: on the videos that taught it, any order is trusted too much.

The refiner reads the shares of the labels in each 5 s. It has the product's defaults, but for its
size, its epochs, and a learning rate that falls to almost 0: the last epoch needs no choice. One
trains without each fold, one without each two folds. In a fold, the five that have not seen it vote
with their mean probability; what those without two folds predict in the other one chooses the
epochs, and then the decoder. The last way decodes the mean of the refiner's probabilities and those
of the labels.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count
from numpy.typing import NDArray

from ophnet_ray.config import TrainingConfig
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.sequences import HeldValues, LabelledSequence
from ophnet_ray.inference.decoder_tuning import (
    CHOSEN_BY,
    NO_SMOOTHING,
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
TARGETS = {"tuned": ">= 0.78", "refiner": ">= 0.79", "refiner, tuned": ">= 0.79"}
REFINER = TemporalConfig(
    temporal="mstcn",
    temporal_input="log_probs",
    temporal_layers=7,
    temporal_stages=1,
    temporal_channels=32,
)
REFINER_EPOCHS = (20, 40, 60)
"""24 steps each: an epoch takes each of 12 videos twice."""
REFINER_TRAINING = TrainingConfig(use_gpu="false", lr_schedule="one_cycle")
HISTOGRAM_S = 5


@dataclass(frozen=True)
class Fold:
    """Videos of the other folds and of this one, with what is learnt from the former.

    ``unseen``: folds that teach nothing: this one, and the outer one of an inner fold.
    ``inner``: the other folds, each with what the rest of them teaches.
    """

    train: Sequence[ScoredVideo]
    test: Sequence[ScoredVideo]
    unseen: frozenset[int]
    dynamics: PhaseDynamics
    inner: Sequence["Fold"]


def compare_decoders(_: Path) -> list[Figure]:
    """Score each way of decoding, every video in the fold that has not seen it."""
    if not PREDICTIONS.is_dir():
        return []
    videos = read_videos()
    folds = [_learn(videos, number) for number in range(NUM_FOLDS)]
    refined = fit_refiners(videos, folds)
    ways: dict[str, Callable[[Fold], list[NDArray[np.int64]]]] = {
        "raw": lambda fold: [video.prediction for video in fold.test],
        "median": lambda fold: _decode(fold, Candidate("median")),
        "viterbi": lambda fold: _decode(fold, Candidate("viterbi"), stated=True),
        "tuned": tune_and_decode,
        "refiner": lambda fold: _decode(refined[fold.unseen], NO_SMOOTHING),
        "refiner, tuned": lambda fold: tune_and_decode(refined[fold.unseen]),
        "refiner and labels, tuned": lambda fold: tune_and_decode(
            mix_folds(refined[fold.unseen], fold)
        ),
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


Probabilities = dict[str, NDArray[np.float32]]
"""Probabilities of videos by case, (N, K) each."""
Refined = dict[frozenset[int], Probabilities]
"""Predictions of refiners by the folds that each has not seen."""


def fit_refiners(
    videos: Sequence[ScoredVideo], folds: Sequence[Fold]
) -> dict[frozenset[int], Fold]:
    """Train refiners without each two folds, choose the epochs, and train without each fold.

    Returns:
        The folds with refined probabilities.
    """
    pairs = {part.unseen: part for fold in folds for part in fold.inner}
    with ProcessPoolExecutor(cpu_count(), get_context("spawn")) as pool:
        running = {
            (num_epochs, unseen): pool.submit(fit_refiner, videos, pair.train, num_epochs)
            for num_epochs in REFINER_EPOCHS
            for unseen, pair in pairs.items()
        }
        found: dict[int, Refined] = {num_epochs: {} for num_epochs in REFINER_EPOCHS}
        for (num_epochs, unseen), future in running.items():
            found[num_epochs][unseen] = future.result()
        chosen = {fold.unseen: choose_epochs(fold, found) for fold in folds}
        last = [pool.submit(fit_refiner, videos, fold.train, chosen[fold.unseen]) for fold in folds]
        return {
            fold.unseen: refine(fold, found[chosen[fold.unseen]] | {fold.unseen: future.result()})
            for fold, future in zip(folds, last, strict=True)
        }


def fit_refiner(
    videos: Sequence[ScoredVideo], train: Sequence[ScoredVideo], num_epochs: int
) -> Probabilities:
    """Train a temporal model on the labels of some videos, and predict the others."""
    torch.set_num_threads(1)
    config = replace(REFINER, temporal_epochs=num_epochs)
    sequences = [_as_sequence(video) for video in train]
    model = fit_head(sequences, [], NUM_PHASES, config, REFINER_TRAINING)
    known, found = {video.case_id for video in train}, {}
    for video in videos:
        if video.case_id not in known:
            coarse = predict_sequence(model, _as_sequence(video).read_values())
            found[video.case_id] = coarse.repeat(HISTOGRAM_S, axis=0)[: len(video.truth)]
    return found


def choose_epochs(fold: Fold, found: Mapping[int, Refined]) -> int:
    """Return the number of epochs whose refiners score highest on the inner folds."""
    return max(found, key=lambda num_epochs: _score_inner(refine(fold, found[num_epochs])))


def _score_inner(fold: Fold) -> float:
    videos = [
        replace(video, prediction=video.probabilities.argmax(axis=1))
        for inner in fold.inner
        for video in inner.test
    ]
    values = CaseScores(videos, NUM_PHASES).values
    return float(np.mean([values[name] for name in CHOSEN_BY]))


def refine(fold: Fold, found: Refined) -> Fold:
    """Return a fold with the mean probabilities of the refiners that have not seen it."""
    own = [each for unseen, each in found.items() if fold.unseen <= unseen]
    test = [
        replace(video, probabilities=np.mean([each[video.case_id] for each in own], axis=0))
        for video in fold.test
    ]
    return replace(fold, test=test, inner=[refine(inner, found) for inner in fold.inner])


def mix_folds(one: Fold, other: Fold) -> Fold:
    """Return a fold with the means of the probabilities of two."""
    test = [
        replace(first, probabilities=(first.probabilities + second.probabilities) / 2)
        for first, second in zip(one.test, other.test, strict=True)
    ]
    inner = [mix_folds(*pair) for pair in zip(one.inner, other.inner, strict=True)]
    return replace(one, test=test, inner=inner)


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
        frozenset({left_out, tested}),
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
    """Return the shares of the labels in each 5 s, as values of the refiner, and the truth."""
    num_missing = -len(video.truth) % HISTOGRAM_S
    labels, truth = (
        np.pad(each, (0, num_missing), mode="edge").reshape(-1, HISTOGRAM_S)
        for each in (video.prediction, video.truth)
    )
    shares = np.eye(NUM_PHASES, dtype=np.float32)[labels].mean(axis=1)
    middle = np.ascontiguousarray(truth[:, HISTOGRAM_S // 2])
    return LabelledSequence(video.case_id, video.case_id, middle, HeldValues(shares))


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
