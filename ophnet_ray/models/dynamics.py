"""Order and duration of phases, counted in training segments and kept in the checkpoint."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import Segment

PSEUDO_COUNT = 0.5
"""Count added to each possible change: one that training never showed is rare, not impossible
(Jeffreys prior)."""


@dataclass(frozen=True)
class PhaseDynamics:
    """Counts of phase changes and durations of phases in the training segments.

    A *visit* is an unbroken stretch of one phase in a video.
    """

    first: NDArray[np.int64]
    """Videos that begin with each phase, (K,)."""
    changes: NDArray[np.int64]
    """Changes from one phase (row) to another (column), (K, K), with a zero diagonal."""
    dwell_s: NDArray[np.float64]
    """Mean seconds of a visit to each phase, (K,); 0 for a phase without visits."""
    median_dwell_s: float
    """Median seconds over all visits."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild the counts from ``to_dict``."""
        return cls(
            np.asarray(values["first"], dtype=np.int64),
            np.asarray(values["changes"], dtype=np.int64),
            np.asarray(values["dwell_s"], dtype=np.float64),
            float(values["median_dwell_s"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "first": self.first.tolist(),
            "changes": self.changes.tolist(),
            "dwell_s": self.dwell_s.tolist(),
            "median_dwell_s": self.median_dwell_s,
        }

    def start_matrix(self) -> NDArray[np.float64]:
        """Return the probability of each phase at the start of a video, (K,)."""
        counts = self.first + PSEUDO_COUNT
        return np.asarray(counts / counts.sum())

    def transition_matrix(self, frame_rate: float) -> NDArray[np.float64]:
        """Return the probabilities from one frame time to the next, (K, K); rows sum to 1."""
        counts = self.changes + PSEUDO_COUNT
        np.fill_diagonal(counts, 0)
        dwell_s = np.where(self.dwell_s > 0, self.dwell_s, self.median_dwell_s)
        # a geometric distribution with mean m frames ends at each frame with probability 1/m
        leave = 1 / np.maximum(dwell_s * frame_rate, 1.001)
        matrix = counts / counts.sum(axis=1, keepdims=True) * leave[:, None]
        np.fill_diagonal(matrix, 1 - leave)
        return np.asarray(matrix)


def learn_dynamics(
    segments: Iterable[Segment], label_of: Mapping[str, int]
) -> PhaseDynamics | None:
    """Count visits and changes of phase.

    The segments of a video are read in the order of their starts. Consecutive segments of one phase
    are one visit; its length is the sum of their annotated seconds. Gaps are ignored: the phases on
    both sides of a gap follow each other, and its seconds belong to neither. Overlapping segments
    each count with their own length.

    Args:
        segments: Training segments only.
        label_of: Label of each phase.

    Returns:
        None when no segment has an end, as with trimmed clips, which show neither order nor length.
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
        rows.sort(key=lambda segment: (segment.start_s, segment.end_s))
        visits = [
            (label_of[phase], sum(segment.end_s - segment.start_s for segment in visit))
            for phase, visit in itertools.groupby(rows, key=lambda segment: segment.phase)
        ]
        first[visits[0][0]] += 1
        for label, length_s in visits:
            seconds[label].append(length_s)
        for (before, _), (after, _) in itertools.pairwise(visits):
            changes[before, after] += 1
    dwell_s = np.asarray([np.mean(lengths) if lengths else 0.0 for lengths in seconds])
    return PhaseDynamics(first, changes, dwell_s, float(np.median(np.concatenate(seconds))))
