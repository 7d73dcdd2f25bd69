"""Decode over time: what a phase is depends on what came before and how long phases last.

A plain hidden Markov model. Its states are the phases, the chance to stay in one comes from the
phase's mean dwell time, so that it lasts as long as in training on average whatever the frame
rate; the chance to change goes to the others as phases followed each other in training. An
explicit-duration model (HSMM) would fit the lengths better than the geometric law that this
implies, but it has a distribution to learn for every phase, where real data hold phases with one
training segment; it takes D times longer for phases of D frames, and has no cheap exact causal
form.
All is learned from training segments alone (``learn_dynamics``).
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import Segment

Smooth = Literal["none", "median", "viterbi"]
SMOOTHERS: tuple[Smooth, ...] = ("none", "median", "viterbi")

PSEUDO_COUNT = 0.5
"""Added to each possible change: what training never showed is rare, not impossible (Jeffreys)."""
LEAST_PROBABILITY = 1e-4
"""A classifier's certainty is not believed beyond this: one window never outvotes the rest."""


@dataclass(frozen=True)
class PhaseDynamics:
    """How phases follow each other and how long they last, counted in training.

    ``first``: int64 (K,), videos that begin with a phase; ``changes``: int64 (K, K), row = from,
    column = to, zero diagonal; ``dwell_s``: float64 (K,), mean seconds of a visit, 0 for a phase
    without one; ``median_dwell_s``: over all visits.
    """

    first: NDArray[np.int64]
    changes: NDArray[np.int64]
    dwell_s: NDArray[np.float64]
    median_dwell_s: float

    @classmethod
    def from_payload(cls, values: Mapping[str, Any]) -> Self:
        """From ``to_payload``."""
        return cls(
            np.asarray(values["first"], dtype=np.int64),
            np.asarray(values["changes"], dtype=np.int64),
            np.asarray(values["dwell_s"], dtype=np.float64),
            float(values["median_dwell_s"]),
        )

    def to_payload(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "first": self.first.tolist(),
            "changes": self.changes.tolist(),
            "dwell_s": self.dwell_s.tolist(),
            "median_dwell_s": self.median_dwell_s,
        }

    def start_matrix(self) -> NDArray[np.float64]:
        """Probability of each phase at the start, (K,)."""
        counts = self.first + PSEUDO_COUNT
        return np.asarray(counts / counts.sum())

    def transition_matrix(self, frame_rate: float) -> NDArray[np.float64]:
        """Probabilities from one frame time to the next, (K, K), rows add up to 1."""
        counts = self.changes + PSEUDO_COUNT
        np.fill_diagonal(counts, 0)
        dwell_s = np.where(self.dwell_s > 0, self.dwell_s, self.median_dwell_s)
        # a geometric law with mean m frames leaves with probability 1/m at each
        leave = 1 / np.maximum(dwell_s * frame_rate, 1.001)
        matrix = counts / counts.sum(axis=1, keepdims=True) * leave[:, None]
        np.fill_diagonal(matrix, 1 - leave)
        return np.asarray(matrix)


def learn_dynamics(
    segments: Iterable[Segment], label_of: Mapping[str, int]
) -> PhaseDynamics | None:
    """Count visits and changes of phase.

    The segments of a video are taken in the order of their starts. Neighbours of the same phase are
    one visit, as long as their annotated seconds together. A gap is passed over: the phases on its
    two sides follow each other, and its seconds count for neither. Overlapping segments count
    each with its own length.

    Args:
        segments: Of training only.
        label_of: Phase → label.

    Returns:
        None when no segment has an end, as trimmed clips: they tell neither order nor length.
    """
    num_phases = len(label_of)
    first = np.zeros(num_phases, dtype=np.int64)
    changes = np.zeros((num_phases, num_phases), dtype=np.int64)
    seconds: list[list[float]] = [[] for _ in range(num_phases)]
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        if np.isfinite(segment.end_s):
            by_video[segment.video].append(segment)
    if not by_video:
        return None
    for rows in by_video.values():
        rows.sort(key=lambda s: (s.start_s, s.end_s))
        visits = [
            (label_of[phase], sum(s.end_s - s.start_s for s in visit))
            for phase, visit in itertools.groupby(rows, key=lambda s: s.phase)
        ]
        first[visits[0][0]] += 1
        for label, length_s in visits:
            seconds[label].append(length_s)
        for (before, _), (after, _) in itertools.pairwise(visits):
            changes[before, after] += 1
    dwell_s = np.asarray([np.mean(lengths) if lengths else 0.0 for lengths in seconds])
    return PhaseDynamics(first, changes, dwell_s, float(np.median(np.concatenate(seconds))))


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
