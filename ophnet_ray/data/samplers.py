"""The windows of each step of an epoch, as a function of (seed, epoch, segment) alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.window_counts import WindowCounts
from ophnet_ray.data.windows import cut_windows
from ophnet_ray.hashing import hash_ids

NUM_DRAWS = 5
_ORDER, _PICK, _DRAWS = range(3)


class StepPlan(NamedTuple):
    """Steps of an epoch: every worker takes ``num_steps`` batches of ``batch_size`` windows.

    ``num_accumulated``: batches whose gradients are summed where one would do with the workers that
    the run began with.
    """

    num_steps: int
    batch_size: int
    num_left_out: int
    num_accumulated: int = 1


class Step(NamedTuple):
    """The windows of one batch.

    ``windows``: int64 (b, 3), one row per window: index of the segment, first block, number of
    blocks; the segment of padding is -1. ``draws``: float32 (b, NUM_DRAWS) in [-1, 1], random
    numbers for augmentation.
    """

    windows: NDArray[np.int64]
    draws: NDArray[np.float32]


def plan_training_steps(
    num_windows: int, batch_size: int, num_replicas: int, begun_with: int | None = None
) -> StepPlan:
    """Plan whole steps; fewer than ``num_replicas * batch_size`` windows are left out.

    A training set smaller than one step is taken in one smaller step.

    Args:
        num_windows: Training windows of an epoch.
        batch_size: Windows per step and worker.
        num_replicas: Workers.
        begun_with: Workers that the run began with. The windows of each gradient stay those of the
            beginning, and so does their number: the learning rate needs no change. With fewer
            workers, each sums the gradients of several batches.

    Raises:
        ValueError: Fewer windows than workers, or the windows of a step cannot be divided among
            the workers.
    """
    if begun_with is not None and begun_with != num_replicas:
        before = plan_training_steps(num_windows, batch_size, begun_with)
        return _divide_again(before, before.batch_size * begun_with, num_replicas)
    if num_windows < num_replicas:
        raise ValueError(f"{num_windows} training windows for {num_replicas} train workers")
    batch_size = min(batch_size, num_windows // num_replicas)
    num_steps = num_windows // (batch_size * num_replicas)
    return StepPlan(num_steps, batch_size, num_windows - num_steps * batch_size * num_replicas)


def _divide_again(before: StepPlan, step_size: int, num_replicas: int) -> StepPlan:
    """Divide the same steps among another number of workers, in batches that are no larger."""
    for num_accumulated in range(1, step_size + 1):
        batch_size, rest = divmod(step_size, num_replicas * num_accumulated)
        if not rest and 0 < batch_size <= before.batch_size:
            num_steps = before.num_steps * num_accumulated
            return StepPlan(num_steps, batch_size, before.num_left_out, num_accumulated)
    fitting = [n for n in range(1, step_size + 1) if step_size % n == 0]
    raise ValueError(
        f"each step has {step_size} windows, which {num_replicas} workers cannot share equally; "
        f"{', '.join(map(str, fitting))} can"
    )


def find_sizes(
    num_windows: int, batch_size: int, candidates: Iterable[int], begun_with: int
) -> tuple[int, ...]:
    """Return the numbers of workers that can share the steps of a run equally, ascending.

    Args:
        num_windows: Training windows of an epoch.
        batch_size: Windows per step and worker.
        candidates: Numbers of workers.
        begun_with: See ``plan_training_steps``.

    Raises:
        ValueError: None of them can.
    """
    sizes, reason = [], ""
    for size in sorted(candidates):
        try:
            plan_training_steps(num_windows, batch_size, size, begun_with)
        except ValueError as error:
            reason = str(error)
        else:
            sizes.append(size)
    if not sizes:
        raise ValueError(reason)
    return tuple(sizes)


def pick_windows(
    segment_ids: NDArray[np.uint64], num_windows: NDArray[np.uint64], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Pick the window of each segment in an epoch, uniformly among its windows.

    Args:
        segment_ids: Numbers that ``hash_ids`` made of the ids, (N,).
        num_windows: Windows of each segment, (N,), at least 1.
        seed: Of the run.
        epoch: From 0.

    Returns:
        Index of the picked window among the segment's windows, (N,).
    """
    return (hash_ids(segment_ids, seed, epoch, _PICK) % num_windows).astype(np.int64)


def pick_distinct_windows(
    segment_ids: NDArray[np.uint64],
    num_windows: NDArray[np.uint64],
    num_picks: NDArray[np.int64],
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Pick several windows of each segment in an epoch, each anew only after all others.

    Args:
        segment_ids: See ``pick_windows``.
        num_windows: See there.
        num_picks: Picks of each segment, from 0, (N,).
        seed: Of the run.
        epoch: From 0.

    Returns:
        Indices of the picked windows, those of a segment side by side, (sum of ``num_picks``,). The
        first of a segment is that of ``pick_windows``, the others are in random order.
    """
    picked = pick_windows(segment_ids, num_windows, seed, epoch)
    several = num_picks > 1
    if not several.any():
        return picked[num_picks > 0]
    counts = num_windows[several].astype(np.int64)
    first = np.cumsum(counts) - counts
    owners = np.repeat(np.arange(len(counts)), counts)
    windows = np.arange(len(owners)) - first[owners]
    keys = hash_ids(hash_ids(segment_ids[several], seed, epoch, _PICK)[owners], windows)
    keys[first + picked[several]] = 0  # the smallest
    # one number to sort by: the segment in the upper bits, which is faster than two
    bits = len(counts).bit_length()
    upper = owners.astype(np.uint64) << np.uint64(64 - bits)
    shuffled = windows[np.argsort(upper | (keys >> np.uint64(bits)), kind="stable")]
    starts, sizes = np.zeros(len(num_picks), np.int64), np.ones(len(num_picks), np.int64)
    starts[several], sizes[several] = first, counts
    rows, repeats = list_repeats(num_picks)
    return np.where(several[rows], shuffled[starts[rows] + repeats % sizes[rows]], picked[rows])


def list_repeats(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each index as often as it counts, and beside it the number of its repetition, from 0.

    Args:
        counts: (N,), from 0.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


class TrainingSampler:
    """Random windows of the segments per epoch, by default one of each, in random order.

    At step s, worker r of W takes the positions ``[(s*W + r)*b, (s*W + r + 1)*b)`` of the
    epoch's permutation.

    Args:
        segment_ids: Unique names of the segments.
        snippet_lengths: Blocks of each snippet of each segment.
        blocks_per_window: See ``WindowConfig``.
        batch_size: Windows per step and worker.
        seed: Of order, picked windows and augmentation.
        rank: This worker, in [0, num_replicas).
        num_replicas: Workers.
        begun_with: See ``plan_training_steps``.
        counts: Windows of each segment; one by default.
    """

    def __init__(
        self,
        segment_ids: Sequence[str],
        snippet_lengths: Sequence[Sequence[int]],
        blocks_per_window: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        num_replicas: int = 1,
        begun_with: int | None = None,
        counts: WindowCounts | None = None,
    ) -> None:
        self._ids = hash_ids(segment_ids)
        self._windows = [cut_windows(lengths, blocks_per_window) for lengths in snippet_lengths]
        self.windows_by_segment = np.asarray([len(w) for w in self._windows], dtype=np.int64)
        self._counts = counts
        num_windows = counts.total if counts else len(self._ids)
        self.plan = plan_training_steps(num_windows, batch_size, num_replicas, begun_with)
        self._seed, self._rank, self._num_replicas = seed, rank, num_replicas
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return self.plan.num_steps

    def __iter__(self) -> Iterator[Step]:
        """Yield this worker's steps of the epoch."""
        return self.steps()

    def steps(self, first: int = 0) -> Iterator[Step]:
        """Yield this worker's steps from step ``first`` on, to resume inside an epoch."""
        counts = self._counts.of_epoch(self._epoch) if self._counts else np.ones_like(self._ids)
        counts = counts.astype(np.int64)
        segments, repeats = list_repeats(counts)
        num_windows = self.windows_by_segment.astype(np.uint64)
        picked = pick_distinct_windows(self._ids, num_windows, counts, self._seed, self._epoch)
        order = np.argsort(self._hash(segments, repeats, _ORDER), kind="stable")
        raw = [self._hash(segments, repeats, _DRAWS + i) for i in range(NUM_DRAWS)]
        draws = (np.stack(raw, axis=1) / 2.0**63 - 1.0).astype(np.float32)
        size = self.plan.batch_size
        for step in range(first, self.plan.num_steps):
            start = (step * self._num_replicas + self._rank) * size
            own = order[start : start + size]
            rows = segments[own]
            windows = np.stack(
                [self._windows[i][picked[j]] for i, j in zip(rows, own, strict=True)]
            )
            yield Step(np.concatenate([rows[:, None], windows], axis=1), draws[own])

    def _hash(
        self, segments: NDArray[np.int64], repeats: NDArray[np.int64], use: int
    ) -> NDArray[np.uint64]:
        """Return a number for each window: of the first one of a segment, that of the segment."""
        values = hash_ids(self._ids[segments], self._seed, self._epoch, use)
        is_repeat = repeats > 0
        values[is_repeat] = hash_ids(values[is_repeat], repeats[is_repeat])
        return values


class ValidationSampler:
    """Every window of every segment exactly once over all workers; each worker has as many steps.

    The last step is padded with rows of segment -1, which the counts leave out.
    """

    def __init__(
        self,
        snippet_lengths: Sequence[Sequence[int]],
        blocks_per_window: int,
        batch_size: int,
        *,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        rows = [
            np.insert(cut_windows(lengths, blocks_per_window), 0, segment, axis=1)
            for segment, lengths in enumerate(snippet_lengths)
        ]
        windows = np.concatenate(rows) if rows else np.empty((0, 3), dtype=np.int64)
        self.num_windows = len(windows)
        self.windows_by_segment = np.asarray([len(own) for own in rows], dtype=np.int64)
        self._num_steps = -(-len(windows) // (batch_size * num_replicas))
        padded = np.zeros((self._num_steps * batch_size * num_replicas, 3), dtype=np.int64)
        padded[:, 0] = -1
        padded[: len(windows)] = windows
        self._rows = padded.reshape(self._num_steps, num_replicas, batch_size, 3)[:, rank]

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._num_steps

    def __iter__(self) -> Iterator[Step]:
        """Yield this worker's steps, the same in every epoch."""
        return self.steps()

    def steps(self, first: int = 0) -> Iterator[Step]:
        """Yield this worker's steps from step ``first`` on."""
        for rows in self._rows[first:]:
            yield Step(rows, np.zeros((len(rows), NUM_DRAWS), dtype=np.float32))
