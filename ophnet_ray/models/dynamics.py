"""Order and duration of phases, counted in training segments and kept in the checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.models.decoder import MIN_DURATIONS, Prior

PSEUDO_COUNT = 0.5
"""Count added to each possible change: one that training never showed is rare, not impossible
(Jeffreys prior)."""
MIN_VISITS = 5
"""Visits to a phase from which quantiles of its durations are taken."""


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
    dwell_quantiles_s: NDArray[np.float64] | None = None
    """Seconds of a visit to each phase at each quantile of ``MIN_DURATIONS``, (K, quantiles). Of a
    phase with fewer than ``MIN_VISITS``: of all visits, and at most its own shortest one. None in
    checkpoints that are older."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild the counts from ``to_dict``."""
        quantiles = values.get("dwell_quantiles_s")
        return cls(
            np.asarray(values["first"], dtype=np.int64),
            np.asarray(values["changes"], dtype=np.int64),
            np.asarray(values["dwell_s"], dtype=np.float64),
            float(values["median_dwell_s"]),
            None if quantiles is None else np.asarray(quantiles, dtype=np.float64),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        values = {
            "first": self.first.tolist(),
            "changes": self.changes.tolist(),
            "dwell_s": self.dwell_s.tolist(),
            "median_dwell_s": self.median_dwell_s,
        }
        if self.dwell_quantiles_s is not None:
            values["dwell_quantiles_s"] = self.dwell_quantiles_s.tolist()
        return values

    def start_matrix(self) -> NDArray[np.float64]:
        """Return the probability of each phase at the start of a video, (K,)."""
        counts = self.first + PSEUDO_COUNT
        return np.asarray(counts / counts.sum())

    def transition_matrix(self, frame_rate: float) -> NDArray[np.float64]:
        """Return the probabilities from one frame time to the next, (K, K); rows sum to 1."""
        # a geometric distribution with mean m frames ends at each frame with probability 1/m
        leave = 1 / np.maximum(self.mean_dwell_s() * frame_rate, 1.001)
        matrix = self.change_matrix() * leave[:, None]
        np.fill_diagonal(matrix, 1 - leave)
        return np.asarray(matrix)

    def change_matrix(self) -> NDArray[np.float64]:
        """Return the probability of each next phase at a change, (K, K); the diagonal is 0."""
        counts = self.changes + PSEUDO_COUNT
        np.fill_diagonal(counts, 0)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), PSEUDO_COUNT))

    def mean_dwell_s(self) -> NDArray[np.float64]:
        """Return the mean seconds of a visit, (K,); the median of all for phases without any."""
        return np.where(self.dwell_s > 0, self.dwell_s, self.median_dwell_s)

    def min_dwell_s(self, quantile: float) -> NDArray[np.float64]:
        """Return the seconds of a visit at a quantile of ``MIN_DURATIONS``, (K,); 0 for 0.

        Checkpoints without quantiles give 0.
        """
        if self.dwell_quantiles_s is None or quantile == 0:
            return np.zeros(len(self.first))
        return np.asarray(self.dwell_quantiles_s[:, MIN_DURATIONS.index(quantile)])

    def prior(self, kind: Prior) -> NDArray[np.float64]:
        """Return the share of each phase among the training segments or frames, (K,)."""
        if kind == "none":
            return np.full(len(self.first), 1 / len(self.first))
        visits = self.first + self.changes.sum(axis=0) + PSEUDO_COUNT
        shares = visits if kind == "segments" else visits * self.mean_dwell_s()
        return np.asarray(shares / shares.sum())


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
    table = as_table(segments)
    table = table.take(np.isfinite(table.ends_s))
    if not len(table):
        return None
    videos = table.videos.renumber().numbers
    labels = table.phases.look_up(label_of).astype(np.int32)
    order = np.lexsort((table.ends_s, table.starts_s, videos))
    videos, labels = videos[order], labels[order]
    lengths_s = (table.ends_s - table.starts_s)[order]

    begins_video = np.diff(videos, prepend=-1) != 0
    is_first = begins_video | (np.diff(labels, prepend=-1) != 0)
    visits = np.flatnonzero(is_first)
    own, begins_video = labels[visits], begins_video[visits]
    first = np.bincount(own[begins_video], minlength=num_phases)
    changes = np.zeros((num_phases, num_phases), dtype=np.int64)
    after = np.flatnonzero(~begins_video)
    np.add.at(changes, (own[after - 1], own[after]), 1)
    visit_s = _sum_visits(lengths_s, visits)
    seconds = [visit_s[own == label] for label in range(num_phases)]
    dwell_s = np.asarray([np.mean(lengths) if len(lengths) else 0.0 for lengths in seconds])
    lengths_s = np.concatenate(seconds)
    quantiles_s = np.stack([_shortest_visits(lengths, lengths_s) for lengths in seconds])
    return PhaseDynamics(first, changes, dwell_s, float(np.median(lengths_s)), quantiles_s)


def _sum_visits(lengths_s: NDArray[np.float64], first: NDArray[np.intp]) -> NDArray[np.float64]:
    """Add up the lengths from each first index to the next one, from left to right.

    NumPy's own sums add in another order, and would change the last digit.
    """
    counts = np.diff(first, append=len(lengths_s))
    sums: NDArray[np.float64] = lengths_s[first].copy()
    left = np.flatnonzero(counts > 1)
    step = 1
    while len(left):
        sums[left] += lengths_s[first[left] + step]
        step += 1
        left = left[counts[left] > step]
    return sums


def _shortest_visits(own: NDArray[np.float64], every: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the seconds of a visit to a phase at each quantile of ``MIN_DURATIONS``."""
    if len(own) >= MIN_VISITS:
        return np.quantile(own, MIN_DURATIONS)
    return np.asarray(np.minimum(np.quantile(every, MIN_DURATIONS), own.min(initial=np.inf)))
