"""All nested choices one after another on cases whose labels are noise.

Folds, members of an ensemble, decoder and temperature, each by the function that the commands call.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from ophnet_ray.data.folds import stratify_cases
from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.averaging import average_predictions
from ophnet_ray.inference.decoder_tuning import Candidate, decode_with_each, tune_decoder
from ophnet_ray.inference.greedy_selection import CandidateVideo, select_members
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.inference.split_calibration import calibrate
from ophnet_ray.metrics.bootstrap import interval_over_cases
from ophnet_ray.metrics.calibration import ProbabilityScores
from ophnet_ray.metrics.classification import accuracy, confusion_counts
from ophnet_ray.metrics.scoring import ScoredVideo
from ophnet_ray.metrics.temperature import temper
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics
from tests.helpers.noise import (
    CHANCE,
    CHANCE_LOSS,
    FRAMES_PER_PHASE,
    NUM_PHASES,
    Nested,
    Repetitions,
    draw_order,
    summarise,
)

NUM_FOLDS = 4
NUM_TRAININGS = 4
"""Trainings of folds, each on features of its own: the candidates of the selection."""
NUM_NEIGHBOURS = 5
SMOOTHED = 0.1
"""Share of the equal probabilities in a prediction: no phase is impossible."""
FRAME_RATE = 1.0


class Case(NamedTuple):
    """A case of one video: its rows, its labels (N,), its features in each training (M, N, 8)."""

    case_id: str
    rows: list[Segment]
    truth: NDArray[np.int64]
    features: NDArray[np.float64]


def draw_cases(num_cases: int, seed: int) -> list[Case]:
    """Draw cases with all phases in a random order, of which the features say nothing.

    Frames of one phase of a case look alike, and like no other case's: a model that has seen the
    case knows its labels, any other one guesses, for many frames alike.
    """
    rng = np.random.default_rng((seed, num_cases))
    cases = []
    for number in range(num_cases):
        truth = draw_order(rng)
        signs = rng.normal(0, 1, (NUM_TRAININGS, NUM_PHASES, 8)).repeat(FRAMES_PER_PHASE, axis=1)
        case_id = f"c{number}"
        times = range(0, len(truth) + 1, FRAMES_PER_PHASE)
        rows = [
            Segment(f"{case_id}:{start_s}", case_id, f"{case_id}.mp4", start_s, end_s, str(phase))
            for phase, (start_s, end_s) in zip(
                truth[::FRAMES_PER_PHASE].tolist(), pairwise(times), strict=True
            )
        ]
        cases.append(Case(case_id, rows, truth, signs + rng.normal(0, 0.5, signs.shape)))
    return cases


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of a set of cases: times of each training in the mean, decoder, temperature."""

    times: tuple[int, ...]
    smoothing: Candidate
    temperature: float
    dynamics: PhaseDynamics

    def average(self, video: CandidateVideo) -> ScoredVideo:
        """Average the trainings' probabilities of a video with their shares."""
        shares = np.asarray(self.times) / sum(self.times)
        return _average(video, shares.tolist())

    def apply(self, video: CandidateVideo) -> ScoredVideo:
        """Return the labels after smoothing, and the mean's probabilities at the temperature."""
        mean = self.average(video)
        (labels,) = decode_with_each(
            mean.probabilities, [self.smoothing], self.dynamics, FRAME_RATE
        )
        tempered = temper(mean.probabilities, self.temperature)
        return ScoredVideo(video.case_id, video.truth, labels, tempered)


def choose(videos: Sequence[CandidateVideo], dynamics: PhaseDynamics) -> Choices:
    """Choose members, then the decoder of their mean and its temperature.

    The best of each is taken, also where the product would keep it not, for want of a sure gain:
    else nothing would be chosen most times.
    """
    selection = select_members(videos)
    chosen = Choices(selection.times, Candidate("none"), 1.0, dynamics)
    means = [chosen.average(video) for video in videos]
    best = tune_decoder(means, dynamics, FRAME_RATE).best
    return Choices(selection.times, best, calibrate(means).fitted, dynamics)


def predict_in_folds(
    cases: Sequence[Case], others: Sequence[Case] = ()
) -> tuple[list[CandidateVideo], list[CandidateVideo]]:
    """Train each training on folds of the cases.

    Returns:
        Each case under the models that have not seen it; each of the others under the mean of all
        folds, as an ensemble of them predicts it.
    """
    fold_of = stratify_cases([row for case in cases for row in case.rows], NUM_FOLDS)
    held_out: dict[str, list[NDArray[np.float32]]] = {case.case_id: [] for case in cases}
    ensembles = []
    for training in range(NUM_TRAININGS):
        of_folds = []
        for fold in range(NUM_FOLDS):
            seen = [case for case in cases if fold_of[case.case_id] != fold]
            model = KNeighborsClassifier(NUM_NEIGHBOURS, algorithm="brute").fit(
                np.concatenate([case.features[training] for case in seen]),
                np.concatenate([case.truth for case in seen]),
            )
            for case in cases:
                if fold_of[case.case_id] == fold:
                    held_out[case.case_id].append(_predict(model, case.features[training]))
            of_folds.append([_predict(model, case.features[training]) for case in others])
        ensembles.append(of_folds)
    means = []
    for number, case in enumerate(others):
        by_fold = [np.stack([fold[number] for fold in of_folds]) for of_folds in ensembles]
        equal = [1 / NUM_FOLDS] * NUM_FOLDS
        rows = [
            _average(CandidateVideo(case.case_id, case.truth, each), equal).probabilities
            for each in by_fold
        ]
        means.append(CandidateVideo(case.case_id, case.truth, np.stack(rows)))
    own = [CandidateVideo(c.case_id, c.truth, np.stack(held_out[c.case_id])) for c in cases]
    return own, means


def predict_across_frames(cases: Sequence[Case], seed: int) -> list[CandidateVideo]:
    """Predict each frame by models of the other folds of frames, which have seen its case."""
    truth = np.concatenate([case.truth for case in cases])
    fold_of = np.random.default_rng((seed, 2)).permutation(len(truth)) % NUM_FOLDS
    found = np.zeros((NUM_TRAININGS, len(truth), NUM_PHASES), dtype=np.float32)
    for training in range(NUM_TRAININGS):
        features = np.concatenate([case.features[training] for case in cases])
        for fold in range(NUM_FOLDS):
            seen = fold_of != fold
            model = KNeighborsClassifier(NUM_NEIGHBOURS, algorithm="brute")
            model.fit(features[seen], truth[seen])
            found[training, ~seen] = _predict(model, features[~seen])
    parts = np.split(found, len(cases), axis=1)
    return [
        CandidateVideo(case.case_id, case.truth, part)
        for case, part in zip(cases, parts, strict=True)
    ]


def run_chain(num_cases: int, seed: int) -> dict[str, Nested]:
    """Run the chain on noise; leads over chance by score, and those of folds that cut cases.

    ``stated``: of each fold of cases under what the others alone have trained and chosen, in folds
    of their own. ``leaky``: trained in folds by case, chosen and scored on the same cases. The
    leaky side of ``accuracy, folds of frames`` lets models see the cases that they predict, too.
    """
    cases = draw_cases(num_cases, seed)
    fold_of = stratify_cases([row for case in cases for row in case.rows], NUM_FOLDS)
    nested: list[ScoredVideo] = []
    for fold in range(NUM_FOLDS):
        others = [case for case in cases if fold_of[case.case_id] != fold]
        held_out = [case for case in cases if fold_of[case.case_id] == fold]
        choosing, scored = predict_in_folds(others, held_out)
        chosen = choose(choosing, _learn(others))
        nested += [chosen.apply(video) for video in scored]
    by_side = [nested]
    for videos in (predict_in_folds(cases)[0], predict_across_frames(cases, seed)):
        chosen = choose(videos, _learn(cases))
        by_side.append([chosen.apply(video) for video in videos])
    (stated, is_claimed), (leaky, _), (across, _) = (_lead_in_accuracy(side) for side in by_side)
    (likelihood, is_likely), (leaky_likelihood, _), _ = (_lead_in_loss(side) for side in by_side)
    return {
        "accuracy": Nested(stated, leaky, is_claimed),
        "accuracy, folds of frames": Nested(stated, across, is_claimed),
        "log-likelihood": Nested(likelihood, leaky_likelihood, is_likely),
    }


def repeat_chain(num_cases: int, num_repetitions: int) -> dict[str, Repetitions]:
    """Repeat the chain on other noise each time; leads by score."""
    found = [run_chain(num_cases, seed) for seed in range(num_repetitions)]
    return {name: summarise([leads[name] for leads in found]) for name in found[0]}


def _predict(model: KNeighborsClassifier, features: NDArray[np.float64]) -> NDArray[np.float32]:
    shares = model.predict_proba(features)
    return np.asarray((1 - SMOOTHED) * shares + SMOOTHED / NUM_PHASES, dtype=np.float32)


def _average(video: CandidateVideo, shares: Sequence[float]) -> ScoredVideo:
    times_s = np.arange(len(video.truth), dtype=np.float64)
    predictions = [VideoPrediction(video.case_id, times_s, each) for each in video.probabilities]
    mean = average_predictions(predictions, shares)
    return ScoredVideo(video.case_id, video.truth, mean.labels, mean.probabilities)


def _learn(cases: Iterable[Case]) -> PhaseDynamics:
    rows = [row for case in cases for row in case.rows]
    return learn_dynamics(rows, {str(label): label for label in range(NUM_PHASES)})


def _lead_in_accuracy(videos: Sequence[ScoredVideo]) -> tuple[float, bool]:
    """Return the lead over chance, and whether its 95 % interval over cases lies above 0."""
    counts = np.stack([confusion_counts(v.truth, v.prediction, NUM_PHASES) for v in videos])
    interval = interval_over_cases(counts, accuracy, NUM_FOLDS)
    return accuracy(counts.sum(axis=0)) - CHANCE, interval is not None and interval.low > CHANCE


def _lead_in_loss(videos: Sequence[ScoredVideo]) -> tuple[float, bool]:
    """Return the lead over equal probabilities in nats, and whether its interval lies above 0."""
    loss = ProbabilityScores(videos).list_scores()[-1]
    return CHANCE_LOSS - loss.value, loss.interval is not None and loss.interval.high < CHANCE_LOSS
