"""Cases whose labels are noise: nothing that is chosen or fitted on some helps on others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from ophnet_ray.data.folds import stratify_cases
from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.decoder_tuning import CHOSEN_BY, tune_decoder
from ophnet_ray.inference.greedy_selection import CandidateVideo, select_members
from ophnet_ray.inference.split_calibration import calibrate
from ophnet_ray.metrics.bootstrap import interval_over_cases
from ophnet_ray.metrics.calibration import ProbabilityScores
from ophnet_ray.metrics.classification import accuracy
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo
from ophnet_ray.metrics.temperature import temper
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics

NUM_PHASES, FRAMES_PER_PHASE = 4, 15
CHANCE = 1 / NUM_PHASES
"""Expected share of right frames of any prediction that has not seen the labels."""
CHANCE_LOSS = float(np.log(NUM_PHASES))
"""Lowest expected negative log-likelihood of such a prediction."""
NUM_CANDIDATES = 6
"""Models among which the members of an ensemble are selected."""


def draw_order(rng: np.random.Generator) -> np.ndarray:
    """Labels of a video: all phases in a random order, one frame per second."""
    return np.repeat(rng.permutation(NUM_PHASES), FRAMES_PER_PHASE)


def draw_noise(
    num_cases: int, seed: int, exchanged: str = "frames", lead: float = 1.5
) -> list[ScoredVideo]:
    """One video per case: a model that sees an order of phases, and labels of another one.

    The model's probabilities look like those of a model that has learnt something: steady in time,
    and as sure as the lead in logits of the phase that it sees. The labels are exchanged between
    ``cases``, or between all ``frames``. With the former, smoothing has a true gain in the Jaccard
    index, whose mean is higher for whole blocks.
    """
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(num_cases):
        truth, seen = draw_order(rng), draw_order(rng)
        if exchanged == "frames":
            truth = rng.permutation(truth)
        flicker = rng.normal(0, lead * 2 / 3, (len(seen), NUM_PHASES))
        logits = lead * np.eye(NUM_PHASES)[seen] + flicker
        probabilities = softmax(logits, axis=1).astype(np.float32)
        labels = probabilities.argmax(axis=1)
        videos.append(ScoredVideo(f"case {number}", truth, labels, probabilities))
    return videos


def learn_noise(num_cases: int = 24, seed: int = 0) -> PhaseDynamics:
    """Dynamics of as many cases of the same kind."""
    rng = np.random.default_rng((seed, 1))
    rows = []
    for number in range(num_cases):
        order = draw_order(rng)[::FRAMES_PER_PHASE].tolist()
        times = range(0, (NUM_PHASES + 1) * FRAMES_PER_PHASE, FRAMES_PER_PHASE)
        rows += [
            Segment(f"{number}:{phase}", str(number), f"{number}.mp4", start_s, end_s, str(phase))
            for phase, (start_s, end_s) in zip(order, pairwise(times), strict=True)
        ]
    return learn_dynamics(rows, {str(label): label for label in range(NUM_PHASES)})


class Nested(NamedTuple):
    """Lead over chance of one choice on noise: as it is stated, and on the cases that chose."""

    stated: float
    leaky: float
    is_claimed: bool = False
    """The program would keep the choice, or its interval leaves out chance."""


Choose = Callable[[int, int], Nested]
"""Number of cases and seed → the leads of a choice."""


def choose_decoder(num_cases: int, seed: int) -> Nested:
    """Lead of the decoder that is tuned on noise over no smoothing."""
    tuned = tune_decoder(draw_noise(num_cases, seed), DYNAMICS, 1.0)
    return Nested(tuned.gain.value, tuned.lead.value, tuned.gain.interval.low > 0)


def choose_temperature(num_cases: int, seed: int) -> Nested:
    """Likelihood above chance of the probabilities at the temperature that is fitted on noise."""
    videos = draw_noise(num_cases, seed, "cases", lead=0.2)
    found = calibrate(videos)
    seen = [replace(v, probabilities=temper(v.probabilities, found.fitted)) for v in videos]
    losses = [scores.list_scores()[-1] for scores in (found.after, ProbabilityScores(seen))]
    stated, leaky = (CHANCE_LOSS - loss.value for loss in losses)
    return Nested(stated, leaky, losses[0].interval.high < CHANCE_LOSS)


def choose_members(num_cases: int, seed: int) -> Nested:
    """Lead of the members that are selected on noise over the plain mean of all candidates.

    Each candidate sees an order of phases of its own.
    """
    drawn = [draw_noise(num_cases, seed * NUM_CANDIDATES + k) for k in range(NUM_CANDIDATES)]
    videos = [
        CandidateVideo(each[0].case_id, each[0].truth, np.stack([v.probabilities for v in each]))
        for each in zip(*drawn, strict=True)
    ]
    found = select_members(videos)
    # the same candidates, so often as all cases choose them, scored on all cases
    shares = np.asarray(found.times) / sum(found.times)
    sides = []
    for weights in (shares, np.full(NUM_CANDIDATES, 1 / NUM_CANDIDATES)):
        means = [np.tensordot(weights, video.probabilities, axes=1) for video in videos]
        labelled = [
            ScoredVideo(video.case_id, video.truth, mean.argmax(axis=1), mean.astype(np.float32))
            for video, mean in zip(videos, means, strict=True)
        ]
        values = CaseScores(labelled, NUM_PHASES).values
        sides.append(np.mean([values[name] for name in CHOSEN_BY]))
    return Nested(found.gain.value, float(sides[0] - sides[1]), found.gain.interval.low > 0)


def train_on_folds(num_cases: int, seed: int) -> Nested:
    """Accuracy above chance of a model that knows each case again, out of fold.

    Its label of a frame is that of the most alike frame in training. Frames of a case are alike,
    and the cases have one phase each, at random. The leaky folds are of frames.
    """
    rng = np.random.default_rng((seed, num_cases))
    frames_per_case, num_folds = 5, 5
    label = rng.permutation(np.arange(num_cases) % NUM_PHASES).repeat(frames_per_case)
    signs = rng.normal(0, 1, (num_cases, 8)).repeat(frames_per_case, axis=0)
    features = signs + rng.normal(0, 0.2, signs.shape)
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    rows = [
        Segment(str(k), f"c{k // frames_per_case}", f"{k // frames_per_case}.mp4", k, k + 1, str(p))
        for k, p in enumerate(label.tolist())
    ]
    fold_of = stratify_cases(rows, num_folds)
    by_case = np.asarray([fold_of[row.case_id] for row in rows])
    by_frame = rng.permutation(len(rows)) % num_folds
    by_split = []
    for folds in (by_case, by_frame):
        nearest = np.where(folds[:, None] == folds, np.inf, distance).argmin(axis=1)
        counts = np.zeros((num_cases, NUM_PHASES, NUM_PHASES), dtype=np.int64)
        np.add.at(counts, (np.arange(len(rows)) // frames_per_case, label, label[nearest]), 1)
        by_split.append(counts)
    stated, leaky = (accuracy(counts.sum(axis=0)) - CHANCE for counts in by_split)
    interval = interval_over_cases(by_split[0], accuracy, num_folds)
    return Nested(stated, leaky, interval is not None and interval.low > CHANCE)


DYNAMICS = learn_noise()
CHOICES: dict[str, Choose] = {
    "decoder": choose_decoder,
    "temperature": choose_temperature,
    "members": choose_members,
    "folds": train_on_folds,
}
"""Nested choices by name."""


class Repetitions(NamedTuple):
    """Mean leads of many repetitions of a choice, in standard errors of the mean, too."""

    stated: float
    stated_in_errors: float
    leaky: float
    leaky_in_errors: float
    share_claimed: float


def repeat_choice(choose: Choose, num_cases: int, num_repetitions: int) -> Repetitions:
    """Repeat a choice on other noise each time."""
    return summarise([choose(num_cases, seed) for seed in range(num_repetitions)])


def summarise(found: Sequence[Nested]) -> Repetitions:
    """Return the means of the leads of two repetitions or more."""
    stated, leaky, claimed = (
        np.asarray(column, dtype=float) for column in zip(*found, strict=True)
    )
    errors = [max(np.std(x, ddof=1) / len(x) ** 0.5, 1e-9) for x in (stated, leaky)]
    return Repetitions(
        float(stated.mean()),
        float(stated.mean() / errors[0]),
        float(leaky.mean()),
        float(leaky.mean() / errors[1]),
        float(claimed.mean()),
    )
