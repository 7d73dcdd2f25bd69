"""Windows that each epoch takes of each training segment, counted exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.layouts import shrink
from ophnet_ray.hashing import hash_ids
from ophnet_ray.sampling_config import SamplingConfig

_TURN = 1000
"""Salt of the turn in which segments of a phase are taken; those of the sampler are smaller."""
_GOLDEN = (5**0.5 - 1) / 2
_MAX_INTEGER = 2**62


class WindowCounts:
    """Numbers of windows that epochs take of training segments.

    Every epoch has T = N * ``windows_per_segment`` windows of N segments.

    - ``segment``: ``windows_per_segment`` of each.
    - ``balanced``: the K phases that have segments are dealt T windows in turn, and the next epoch
      goes on where this one ended: each phase has T / K windows, rounded up or down. So are the
      windows of a phase dealt among its segments, in a random turn that is that of all epochs: over
      any number of epochs, two segments of a phase differ by at most one window.
    - ``seconds``: systematic sampling (Madow, 1949). The segments lie end to end, phase by phase in
      random order, and T points at equal distances choose them: a segment whose share of the
      duration is p has p * T windows, rounded up or down, and so has each phase. The points of the
      next epoch are shifted by the golden section of the distance: a segment that is shorter than
      the distance is not taken in every epoch, but in turn.

    Args:
        segment_ids: Unique names of the segments, or the numbers that ``hash_ids`` made of them.
        labels: Phase of each segment, (N,).
        lengths: Duration of each segment, positive integers of any one unit, (N,).
        sampling: Settings.
        seed: Seed of the run.
    """

    def __init__(
        self,
        segment_ids: Sequence[str] | NDArray[np.uint64],
        labels: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        sampling: SamplingConfig,
        seed: int,
    ) -> None:
        self.total = sampling.count_windows(len(segment_ids))
        self._sampling, self._num_segments = sampling, len(segment_ids)
        if sampling.sampler == "segment":
            return
        ranks, self._sizes = np.unique(labels, return_inverse=True, return_counts=True)[1:]
        turns = hash_ids(segment_ids, seed, _TURN)
        in_order = np.lexsort((turns, ranks))
        if sampling.sampler == "balanced":
            places = np.empty_like(in_order)
            first = np.cumsum(self._sizes) - self._sizes
            places[in_order] = np.arange(len(in_order)) - np.repeat(first, self._sizes)
            self._ranks, self._places = shrink(ranks), shrink(places)
            return
        # whole numbers add up to the same on every machine
        unit = 1 + int(lengths.sum()) * self.total // _MAX_INTEGER
        self._lengths = np.maximum(lengths.astype(np.int64) // unit, 1)
        self._stops = np.empty_like(self._lengths)
        self._stops[in_order] = np.cumsum(self._lengths[in_order])

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the windows of each segment in an epoch, from 0, int64 (N,); their sum is T."""
        match self._sampling.sampler:
            case "segment":
                return np.full(self._num_segments, self._sampling.windows_per_segment)
            case "balanced":
                return self._deal(epoch)
            case "seconds":
                return self._measure(epoch)

    def _deal(self, epoch: int) -> NDArray[np.int64]:
        """Deal windows among the phases, and those of a phase among its segments."""
        before, after = (self._dealt_until(number) for number in (epoch, epoch + 1))
        return after - before

    def _dealt_until(self, epoch: int) -> NDArray[np.int64]:
        """Count the windows of each segment in all epochs before this one, (N,)."""
        ranks, sizes = self._ranks.astype(np.int64), self._sizes[self._ranks]
        of_phase = (epoch * self.total + ranks) // len(self._sizes)  # in all epoch * T
        dealt: NDArray[np.int64] = (of_phase + sizes - 1 - self._places.astype(np.int64)) // sizes
        return dealt

    def _measure(self, epoch: int) -> NDArray[np.int64]:
        """Count the points of an epoch that lie on each segment."""
        whole = int(self._lengths.sum())
        shift = epoch * round(whole * _GOLDEN) % whole
        until = (self._stops * self.total + shift) // whole
        before = ((self._stops - self._lengths) * self.total + shift) // whole
        points: NDArray[np.int64] = until - before
        return points
