"""Mixing of phases and cases by ``--shuffle shard``, on segments as numerous as OphNet's."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.samplers import TrainingSampler
from ophnet_ray.data.shard_order import ShardOrder
from ophnet_ray.hashing import hash_ids
from tests.benchmarks.table import Figure

NUM_SEGMENTS, NUM_CASES, NUM_PHASES, PER_SHARD = 14_674, 743, 52, 26
BATCH_SIZE, NEAR_STEPS, EPOCHS = 32, 50, 3


def simulate_shuffling(_: Path) -> list[Figure]:
    """Compare batches, and stretches of 50 steps, of both orders."""
    rows = np.arange(NUM_SEGMENTS)
    cases = rows * NUM_CASES // NUM_SEGMENTS
    first = np.searchsorted(cases, np.arange(NUM_CASES))
    # an operation goes through its phases in order; each begins at one of its own
    start = hash_ids(np.arange(NUM_CASES, dtype=np.uint64), 1) % np.uint64(NUM_PHASES)
    phases = (start[cases].astype(np.int64) + rows - first[cases]) % NUM_PHASES
    figures = []
    for mixed in (None, 64, 32, 8):
        order = _read_order(mixed)
        name = "global" if mixed is None else f"shard, {mixed} open"
        batches = order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        near = batches[: len(batches) // NEAR_STEPS * NEAR_STEPS].reshape(
            -1, NEAR_STEPS * BATCH_SIZE
        )
        figures += [
            Figure(f"{name}: cases in a batch of {BATCH_SIZE}", _count_distinct(cases[batches])),
            Figure(f"{name}: phases in a batch", _count_distinct(phases[batches])),
            Figure(
                f"{name}: cases in {NEAR_STEPS} steps", _count_distinct(cases[near]),
                f"of {NUM_CASES}",
            ),
            Figure(
                f"{name}: distance of the phases of {NEAR_STEPS} steps from all",
                _measure_distance(phases[near], phases), "total variation, 0 to 1",
            ),
        ]  # fmt: skip
    return figures


def _read_order(mixed: int | None) -> NDArray[np.int64]:
    ids = hash_ids(np.arange(NUM_SEGMENTS, dtype=np.uint64), 2)
    groups = (np.arange(NUM_SEGMENTS) // PER_SHARD).astype(np.uint16)
    shards = None if mixed is None else ShardOrder(ids, groups, mixed)
    sampler = TrainingSampler(ids, [[4, 4]] * NUM_SEGMENTS, 2, BATCH_SIZE, 0, shards=shards)
    taken = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        taken += [step.windows[:, 0] for step in sampler]
    return np.concatenate(taken)


def _count_distinct(groups: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.unique(group)) for group in groups]))


def _measure_distance(groups: NDArray[np.int64], phases: NDArray[np.int64]) -> float:
    overall = np.bincount(phases, minlength=NUM_PHASES) / len(phases)
    shares = [np.bincount(group, minlength=NUM_PHASES) / len(group) for group in groups]
    return float(np.mean([abs(share - overall).sum() / 2 for share in shares]))
