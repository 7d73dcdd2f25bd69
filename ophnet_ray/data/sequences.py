"""Whole videos as labelled sequences, and batches of them, one video per step and worker."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ophnet_ray.data.samplers import TrainingSampler, ValidationSampler

ReadValues = Callable[[], NDArray[np.float32]]
"""Read the values of a sequence (N, D); rows of NaN where frames are damaged."""
HELD_BYTES = 2**30
"""Values kept in memory by each loader; those beyond it are read again in each epoch."""
MIN_STEPS = 20
"""Optimiser steps of an epoch, at least: a temporal model needs hundreds of them in all."""
ONE_WINDOW = [1]
"""A sequence is used as a whole: to the samplers it is a segment with a single window."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSequence:
    """Values and labels of one video at its N frame times.

    ``labels``: int64 (N,), -1 (``NOT_ANNOTATED``) between segments.
    """

    sequence_id: str
    case_id: str
    labels: NDArray[np.int64]
    read_values: ReadValues


@dataclass(frozen=True, slots=True, eq=False)
class HeldValues:
    """Values of a sequence in memory, (N, D)."""

    values: NDArray[np.float32]

    def __call__(self) -> NDArray[np.float32]:
        """Return the values."""
        return self.values


def count_passes(num_videos: int, num_workers: int) -> int:
    """Return how often an epoch takes each training video: as often as gives ``MIN_STEPS`` steps.

    Args:
        num_videos: Training videos.
        num_workers: Train workers, each with one video per step.
    """
    return -(-MIN_STEPS * num_workers // num_videos)


class SequenceStatistics(NamedTuple):
    """Statistics of the undamaged frames of sequences.

    ``counts``: annotated frames of each phase, int64 (K,); ``mean``, ``deviation``: of each value
    over all frames, annotated or not, float32 (D,) each.
    """

    counts: NDArray[np.int64]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


def measure_sequences(
    sequences: Sequence[LabelledSequence], num_classes: int
) -> SequenceStatistics:
    """Measure sequences of phases 0 to ``num_classes`` - 1; each is read once."""
    counts = np.zeros(num_classes, dtype=np.int64)
    num_frames, total, squares = 0, np.zeros(0), np.zeros(0)
    for sequence in sequences:
        values, labels = sequence.read_values(), sequence.labels
        is_damaged = np.isnan(values[:, 0])
        known = values[~is_damaged].astype(np.float64)
        if not num_frames:
            total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        counts += np.bincount(labels[(labels >= 0) & ~is_damaged], minlength=num_classes)
        num_frames += len(known)
        total, squares = total + known.sum(axis=0), squares + np.square(known).sum(axis=0)
    mean = total / max(num_frames, 1)
    variance = np.maximum(squares / max(num_frames, 1) - np.square(mean), 0)
    return SequenceStatistics(counts, mean.astype(np.float32), np.sqrt(variance).astype(np.float32))


class SequenceLoader:
    """Iterate over whole videos, as a ``DataLoader`` does.

    A batch holds float32 ``values`` (1, N, D), NaN where frames are damaged, int64 ``label``
    (1, N), -1 where a frame is damaged or not annotated, int64 ``case`` (1,), the index of the case
    among the sorted cases, and bool ``valid`` (1,), False for padding.

    Args:
        sequences: The videos; row r of the sampler is that of index r modulo their number.
        sampler: Order of the videos; Lightning finds it by this name and sets its epoch.
    """

    batch_sampler = None  # Lightning looks for it beside a sampler, as a DataLoader has both

    def __init__(
        self,
        sequences: Sequence[LabelledSequence],
        sampler: TrainingSampler | ValidationSampler,
    ) -> None:
        self.sampler = sampler
        self._sequences = sequences
        case_ids = np.asarray([each.case_id for each in sequences], dtype=object)
        self._cases = np.unique(case_ids, return_inverse=True)[1]
        self._held: dict[int, NDArray[np.float32]] = {}
        self._held_bytes = 0
        self._position = self._resume_at = 0
        self._wait_s, self._started_s = 0.0, time.perf_counter()

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return len(self.sampler)

    @property
    def wait_share(self) -> float:
        """Share of the time since the iteration started that was spent on reading."""
        return self._wait_s / max(time.perf_counter() - self._started_s, 1e-9)

    def state_dict(self) -> dict[str, int]:
        """Return the position inside the epoch; Lightning keeps it in each checkpoint."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at a position; later ones start at 0 again."""
        self._resume_at = state["position"] % len(self)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches in the sampler's order."""
        first, self._resume_at = self._resume_at, 0
        self._position, self._wait_s, self._started_s = first, 0.0, time.perf_counter()
        for step in self.sampler.steps(first):
            asked_s = time.perf_counter()
            batches = [self._build_batch(int(index)) for index in step.windows[:, 0]]
            self._wait_s += time.perf_counter() - asked_s
            self._position += 1
            yield from batches

    def _build_batch(self, index: int) -> dict[str, Tensor]:
        number = max(index, 0) % len(self._sequences)
        sequence, values = self._sequences[number], self._read(number)
        labels = np.where(np.isnan(values[:, 0]), -1, sequence.labels)
        return {
            "values": torch.from_numpy(values)[None],
            "label": torch.from_numpy(labels)[None],
            "case": torch.tensor([self._cases[number]]),
            "valid": torch.tensor([index >= 0]),
        }

    def _read(self, index: int) -> NDArray[np.float32]:
        if index in self._held:
            return self._held[index]
        values = self._sequences[index].read_values()
        if self._held_bytes + values.nbytes <= HELD_BYTES:
            self._held[index] = values
            self._held_bytes += values.nbytes
        return values
