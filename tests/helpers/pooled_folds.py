"""Cross-validations on simulated cases whose phases can be learnt, each scored out of fold.

Frames of a case and of a phase of it are alike, so a model learns from few independent examples,
and changes with the cases that it is trained on.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.folds import stratify_cases
from ophnet_ray.data.segments import Segment

FRAMES = (4, 10, 16, 7, 2)
"""Mean frames of each phase in a case; half of the cases show the last one."""
NUM_PHASES, NUM_FEATURES, NUM_HIDDEN, NUM_NEIGHBOURS = len(FRAMES), 12, 24, 5
SIGNAL = 0.5
"""Deviation of the phases' features; those of cases, of their phases and of frames have more."""
CASE_NOISE, FRAME_NOISE = 0.6, 0.8
CENTERS = SIGNAL * np.random.default_rng(5).normal(0, 1, (NUM_PHASES, NUM_FEATURES))

Learner = Callable[
    [np.random.Generator, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]],
    NDArray[np.int64],
]
"""Chance, training features (N, D), labels (N,) and other features (M, D) → their labels (M,)."""


class Frames(NamedTuple):
    """Case (N,), label (N,) and features (N, D) of all frames, and the rows of a table of them."""

    case: NDArray[np.int64]
    label: NDArray[np.int64]
    features: NDArray[np.float64]
    rows: list[Segment]


def draw_frames(rng: np.random.Generator, num_cases: int) -> Frames:
    """Draw the frames of cases of unequal length."""
    shape = (num_cases, NUM_PHASES)
    lengths = np.exp(rng.normal(0, 0.5, (num_cases, 1))) * rng.uniform(0.5, 1.5, shape)
    frames = rng.poisson(np.asarray(FRAMES) * lengths)
    frames[:, -1] *= rng.random(num_cases) < 0.5
    frames[frames.sum(axis=1) == 0, 2] = 1
    places = np.arange(frames.size).repeat(frames.ravel())
    case, label = np.divmod(places, NUM_PHASES)
    own = rng.normal(0, CASE_NOISE, (num_cases, 1, NUM_FEATURES))
    own = own + rng.normal(0, CASE_NOISE, (*shape, NUM_FEATURES))
    noise = rng.normal(0, FRAME_NOISE, (len(case), NUM_FEATURES))
    rows = [
        Segment(f"{place}:{k}", f"c{place // NUM_PHASES:02d}", f"{place // NUM_PHASES}.mp4",
                0.0, 1.0, str(place % NUM_PHASES))
        for place, number in enumerate(frames.ravel().tolist())
        for k in range((number + 5) // 6)
    ]  # fmt: skip
    return Frames(case, label, CENTERS[label] + own[case, label] + noise, rows)


def learn_linear(
    rng: np.random.Generator,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    others: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Predict by ridge regression on the labels."""
    inputs, own = (np.c_[each, np.ones(len(each))] for each in (features, others))
    gram = inputs.T @ inputs + 3 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ np.eye(NUM_PHASES)[labels])
    return np.asarray((own @ weights).argmax(axis=1))


def learn_by_chance(
    rng: np.random.Generator,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    others: NDArray[np.float64],
    num_hidden: int = NUM_HIDDEN,
) -> NDArray[np.int64]:
    """Predict by ridge regression on random features: each model has luck of its own."""
    hidden = rng.normal(0, NUM_FEATURES**-0.5, (NUM_FEATURES, num_hidden))
    offset = rng.normal(0, 0.5, num_hidden)
    sides = (np.maximum(each @ hidden + offset, 0) for each in (features, others))
    inputs, own = sides
    return learn_linear(rng, inputs, labels, own)


def learn_neighbours(
    rng: np.random.Generator,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    others: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Predict the most frequent label among the nearest frames: an unstable learner."""
    distance = (features**2).sum(axis=1) - 2 * others @ features.T
    nearest = np.argpartition(distance, NUM_NEIGHBOURS - 1, axis=1)[:, :NUM_NEIGHBOURS]
    votes = np.eye(NUM_PHASES)[labels[nearest]].sum(axis=1)
    return np.asarray(votes.argmax(axis=1))


LEARNERS: dict[str, Learner] = {
    "linear": learn_linear,
    "random features": learn_by_chance,
    "neighbours": learn_neighbours,
}
"""Learners by name."""


def cross_validate(
    learn: Learner, num_cases: int, num_folds: int, seed: int
) -> NDArray[np.float64]:
    """Return the counts of each case under the model of the other folds, (C, K, K)."""
    rng = np.random.default_rng((seed, num_cases, 11))
    return score_folds(learn, rng, draw_frames(rng, num_cases), num_cases, num_folds)


def score_folds(
    learn: Learner, rng: np.random.Generator, frames: Frames, num_cases: int, num_folds: int
) -> NDArray[np.float64]:
    """Return the same counts of given frames; ``rng`` is the luck of the models."""
    found = stratify_cases(frames.rows, num_folds)
    fold_of = np.asarray([found[f"c{case:02d}"] for case in range(num_cases)])[frames.case]
    predicted = np.zeros(len(frames.case), dtype=np.int64)
    for fold in range(num_folds):
        out = fold_of == fold
        seen = (frames.features[~out], frames.label[~out])
        predicted[out] = learn(rng, *seen, frames.features[out])
    counts = np.zeros((num_cases, NUM_PHASES, NUM_PHASES))
    np.add.at(counts, (frames.case, frames.label, predicted), 1)
    return counts
