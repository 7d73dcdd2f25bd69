"""Decode over time: what a phase is depends on what came before and how long phases last.

A plain hidden Markov model. Its states are the phases, the chance to stay in one comes from the
phase's mean dwell time, so that it lasts as long as in training on average whatever the frame
rate; the chance to change goes to the others as phases followed each other in training. An
explicit-duration model (HSMM) would fit the lengths better than the geometric law that this
implies, but it has a distribution to learn for every phase, where real data hold phases with one
training segment; it takes D times longer for phases of D frames, and has no cheap exact causal
form.
All is learned from training segments alone (``models.dynamics``).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.models.dynamics import PhaseDynamics

Smooth = Literal["none", "median", "viterbi"]
SMOOTHERS: tuple[Smooth, ...] = ("none", "median", "viterbi")

LEAST_PROBABILITY = 1e-4
"""A classifier's certainty is not believed beyond this: one window never outvotes the rest."""


def smooth_labels(
    probabilities: NDArray[np.float32],
    smooth: Smooth,
    dynamics: PhaseDynamics,
    frame_rate: float,
    *,
    causal: bool = False,
) -> NDArray[np.int64]:
    """Decode the labels of one video.

    A time without a prediction (a row of NaN) takes what its neighbours in time say.

    Args:
        probabilities: (N, K) at the frame times.
        smooth: How, not ``none``.
        dynamics: From training.
        frame_rate: Frame times a second.
        causal: Use nothing after a time for it: the filtered instead of the most probable path, and
            a median over the past.

    Returns:
        Labels (N,).
    """
    if smooth == "median":
        return _median(probabilities, dynamics.median_dwell_s * frame_rate / 2, causal)
    known = ~np.isnan(probabilities)
    emission = np.log(np.where(known, np.maximum(probabilities, LEAST_PROBABILITY), 1.0))
    start, matrix = dynamics.start_matrix(), dynamics.transition_matrix(frame_rate)
    return _filter(emission, start, matrix) if causal else _viterbi(emission, start, matrix)


def _viterbi(
    emission: NDArray[np.float64], start: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The most probable path (Viterbi, 1967), in logarithms."""
    log_matrix = np.log(matrix)
    score = np.log(start) + emission[0]
    came_from = np.zeros(emission.shape, dtype=np.int64)
    for t in range(1, len(emission)):
        candidates = score[:, None] + log_matrix
        came_from[t] = candidates.argmax(axis=0)
        score = candidates.max(axis=0) + emission[t]
    path = np.zeros(len(emission), dtype=np.int64)
    path[-1] = score.argmax()
    for t in range(len(emission) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path


def _filter(
    emission: NDArray[np.float64], start: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The most probable phase at each time, given the past alone: the forward algorithm."""
    path = np.zeros(len(emission), dtype=np.int64)
    belief = start
    for t, row in enumerate(np.exp(emission)):
        belief = (belief if t == 0 else belief @ matrix) * row
        belief = belief / belief.sum()
        path[t] = belief.argmax()
    return path


def _median(probabilities: NDArray[np.float32], width: float, causal: bool) -> NDArray[np.int64]:
    """The phase whose median over the neighbours is highest.

    Args:
        probabilities: (N, K).
        width: Frame times to look at; half of it over the past, which tells late what is new.
        causal: Look at the past alone.
    """
    half = max(round(width / 2 if causal else width) // 2, 1)
    filled = _fill_gaps(probabilities)
    ends = (2 * half, 0) if causal else (half, half)
    padded = np.pad(filled, (ends, (0, 0)), mode="edge")
    medians = [
        np.median(np.lib.stride_tricks.sliding_window_view(column, 2 * half + 1), axis=1)
        for column in padded.T
    ]
    return np.asarray(np.stack(medians, axis=1).argmax(axis=1), dtype=np.int64)


def _fill_gaps(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of NaN become the row before; at the start, all phases alike."""
    known = ~np.isnan(probabilities[:, 0])
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    uniform = np.full(probabilities.shape[1], 1 / probabilities.shape[1], dtype=np.float32)
    return np.where(last[:, None] >= 0, probabilities[last], uniform)
