"""Smoothing over time: the phase of a frame depends on those before it and on how long phases last.

A plain hidden Markov model. Its states are the phases. The probability to stay in a phase comes
from the phase's mean duration in training, at any frame rate; the probability to change is shared
among the other phases as they followed each other in training. An explicit-duration model (HSMM)
would fit the durations better than the geometric law of this model. But it would have to learn one
distribution per phase, where real data hold phases with a single training segment; it takes D times
longer for phases of D frames, and has no cheap exact causal form.

Everything is learned from training segments (``models.dynamics``).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction
from ophnet_ray.models.dynamics import PhaseDynamics

Smooth = Literal["none", "median", "viterbi"]
SMOOTHERS: tuple[Smooth, ...] = ("none", "median", "viterbi")

MIN_PROBABILITY = 1e-4
"""Lower bound of a classifier's probabilities: one certain window cannot outvote all others."""


def decode_labels(
    prediction: VideoPrediction,
    info: PredictionInfo,
    smooth: Smooth,
    dynamics: PhaseDynamics | None,
) -> NDArray[np.int64]:
    """Return the final labels of a video, (N,).

    Raises:
        UserError: The smoothing needs dynamics, and there are none.
    """
    if smooth == "none":
        return prediction.labels
    known = require_dynamics(smooth, dynamics)
    return smooth_labels(
        prediction.probabilities, smooth, known, info.frame_rate, causal=info.causal
    )


def require_dynamics(smooth: Smooth, dynamics: PhaseDynamics | None) -> PhaseDynamics:
    """Return the dynamics that a smoothing needs.

    Raises:
        UserError: There are none.
    """
    if dynamics is None:
        raise UserError(
            f"--smooth {smooth}: this checkpoint was trained on trimmed clips, which do not show "
            "how phases follow each other; use --smooth none"
        )
    return dynamics


def smooth_labels(
    probabilities: NDArray[np.float32],
    smooth: Smooth,
    dynamics: PhaseDynamics,
    frame_rate: float,
    *,
    causal: bool = False,
) -> NDArray[np.int64]:
    """Smooth the labels of one video.

    A time without a prediction (a row of NaN) takes its label from its neighbours in time.

    Args:
        probabilities: (N, K) at the frame times.
        smooth: Kind of smoothing, not ``none``.
        dynamics: Order and duration of the phases in training.
        frame_rate: Frame times per second.
        causal: Use only the past of each time: the forward algorithm instead of the most probable
            path, and a median over the past.

    Returns:
        Labels (N,).
    """
    if smooth == "median":
        return _median(probabilities, dynamics.median_dwell_s * frame_rate / 2, causal)
    known = ~np.isnan(probabilities)
    emission = np.log(np.where(known, np.maximum(probabilities, MIN_PROBABILITY), 1.0))
    start, matrix = dynamics.start_matrix(), dynamics.transition_matrix(frame_rate)
    return _filter(emission, start, matrix) if causal else _viterbi(emission, start, matrix)


def _viterbi(
    emission: NDArray[np.float64], start: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the most probable path (Viterbi, 1967), computed in logarithms."""
    log_matrix = np.log(matrix)
    score = np.log(start) + emission[0]
    came_from = np.zeros(emission.shape, dtype=np.int64)
    for step in range(1, len(emission)):
        candidates = score[:, None] + log_matrix
        came_from[step] = candidates.argmax(axis=0)
        score = candidates.max(axis=0) + emission[step]
    path = np.zeros(len(emission), dtype=np.int64)
    path[-1] = score.argmax()
    for step in range(len(emission) - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path


def _filter(
    emission: NDArray[np.float64], start: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the most probable phase at each time, given the past alone (forward algorithm)."""
    path = np.zeros(len(emission), dtype=np.int64)
    belief = start
    for step, row in enumerate(np.exp(emission)):
        belief = (belief if step == 0 else belief @ matrix) * row
        belief = belief / belief.sum()
        path[step] = belief.argmax()
    return path


def _median(probabilities: NDArray[np.float32], width: float, causal: bool) -> NDArray[np.int64]:
    """Return the phase with the highest median probability over the neighbours.

    Args:
        probabilities: (N, K).
        width: Number of frame times in the median; half as many with ``causal``, because a median
            over the past sees a new phase late.
        causal: Use only the past.
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
    """Replace rows of NaN by the row before; at the start, by equal probabilities."""
    known = ~np.isnan(probabilities[:, 0])
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    uniform = np.full(probabilities.shape[1], 1 / probabilities.shape[1], dtype=np.float32)
    return np.where(last[:, None] >= 0, probabilities[last], uniform)
