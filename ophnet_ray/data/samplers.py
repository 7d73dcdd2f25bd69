"""The windows of each step of an epoch, as a function of (seed, epoch, segment) alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.epoch_places import (
    ORDER,
    PLACES_AT_ONCE,
    EpochPlaces,
    hash_windows,
    list_repeats,
)
from ophnet_ray.data.layouts import Layouts, LayoutWindows, Unsigned, shrink
from ophnet_ray.data.shard_order import ShardOrder, ShareOfSteps
from ophnet_ray.data.window_counts import WindowCounts
from ophnet_ray.hashing import hash_ids

NUM_DRAWS = 5
_PICK, _DRAWS = ORDER + 1, ORDER + 2


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
    repeats: NDArray[np.int64],
    seed: int,
    epoch: int,
    bits: int,
) -> NDArray[np.int64]:
    """Pick windows of segments of which an epoch takes several, each anew only after all others.

    Args:
        segment_ids: See ``pick_windows``; of the segment of each wanted window, (n,).
        num_windows: See there.
        repeats: Number of the repetition of the segment, from 0, (n,).
        seed: Of the run.
        epoch: From 0.
        bits: Upper bits that the random numbers leave free: those that number the segments of
            which the epoch takes several.

    Returns:
        Index of each picked window among its segment's windows, (n,). The first of a segment is
        that of ``pick_windows``, the others are in random order.
    """
    # the windows of a segment are shuffled once, however many of them are wanted
    ids, at, of_segment = np.unique(segment_ids, return_index=True, return_inverse=True)
    counts = num_windows[at].astype(np.int64)
    first = np.cumsum(counts) - counts
    owners, windows = list_repeats(counts)
    keys = hash_ids(hash_ids(ids, seed, epoch, _PICK)[owners], windows)
    keys[first + pick_windows(ids, num_windows[at], seed, epoch)] = 0  # the smallest
    shuffled = windows[np.lexsort((keys >> np.uint64(bits), owners))]
    return shuffled[first[of_segment] + repeats % counts[of_segment]]


class TrainingSampler:
    """Random windows of the segments per epoch, by default one of each, in random order.

    At step s, worker r of W takes the positions ``[(s*W + r)*b, (s*W + r + 1)*b)`` of the
    epoch's permutation.

    Args:
        segment_ids: Unique names of the segments, or the numbers that ``hash_ids`` made of them.
        snippet_lengths: Blocks of each snippet of each segment.
        blocks_per_window: See ``WindowConfig``.
        batch_size: Windows per step and worker.
        seed: Of order, picked windows and augmentation.
        rank: This worker, in [0, num_replicas).
        num_replicas: Workers.
        begun_with: See ``plan_training_steps``.
        counts: Windows of each segment; one by default.
        shards: Groups of segments to read in turn, see ``shard_order``, instead of all at random.

    Attributes:
        windows: All windows of the segments.
        plan: Steps of an epoch.
    """

    def __init__(
        self,
        segment_ids: Sequence[str] | NDArray[np.uint64],
        snippet_lengths: Sequence[Sequence[int]] | Layouts,
        blocks_per_window: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        num_replicas: int = 1,
        begun_with: int | None = None,
        counts: WindowCounts | None = None,
        shards: ShardOrder | None = None,
    ) -> None:
        self._ids = hash_ids(segment_ids)
        self.windows = LayoutWindows(_as_layouts(snippet_lengths), blocks_per_window)
        self._counts, self._shards = counts, shards
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

    @property
    def batch_size(self) -> int:
        """Windows of a step of this worker."""
        return self.plan.batch_size

    def __iter__(self) -> Iterator[Step]:
        """Yield this worker's steps of the epoch."""
        return self.steps()

    def steps(self, first: int = 0) -> Iterator[Step]:
        """Yield this worker's steps from step ``first`` on, to resume inside an epoch."""
        epoch = self._epoch
        counts = self._counts.of_epoch(epoch) if self._counts else None
        places = EpochPlaces(len(self._ids), counts)
        del counts
        take = self._order_places(places, epoch)
        steps_at_once = max(PLACES_AT_ONCE // self.plan.batch_size, 1)
        for start in range(first, self.plan.num_steps, steps_at_once):
            rows = take(start, min(start + steps_at_once, self.plan.num_steps))
            windows, draws = self._read_places(places, rows.ravel().astype(np.int64), epoch)
            for i in range(len(rows)):
                step = slice(i * self.plan.batch_size, (i + 1) * self.plan.batch_size)
                yield Step(windows[step], draws[step])

    def _order_places(
        self, places: EpochPlaces, epoch: int
    ) -> Callable[[int, int], NDArray[np.integer[Any]]]:
        """Return a function that returns this worker's places from one step to another."""
        plan = self.plan
        if self._shards is None:
            own = self._shuffle_places(places, epoch)
            return lambda start, stop: own[start:stop]
        share = ShareOfSteps(
            self._rank, self._num_replicas, plan.batch_size, plan.num_accumulated, plan.num_steps
        )
        return self._shards.of_epoch(places, self._seed, epoch, share).take

    def _shuffle_places(self, places: EpochPlaces, epoch: int) -> Unsigned:
        """Return the places of this worker's windows in random order, (steps, windows)."""
        keys = np.concatenate([self._hash(*part, epoch, ORDER) for part in places.parts()])
        order = np.argsort(keys, kind="stable")
        shape = self.plan.num_steps, self._num_replicas, self.plan.batch_size
        whole = order[: np.prod(shape)].reshape(shape)
        # a copy: the places of the other workers are not kept
        return whole[:, self._rank].astype(np.min_scalar_type(len(order)))

    def _read_places(
        self, places: EpochPlaces, own: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the windows and the draws of some places, see ``Step``."""
        segments, repeats, several = places.locate(own)
        ids, num_windows = self._ids[segments], self.windows.count_of(segments).astype(np.uint64)
        picked = pick_windows(ids, num_windows, self._seed, epoch)
        if several.any():
            picked[several] = pick_distinct_windows(
                ids[several],
                num_windows[several],
                repeats[several],
                self._seed,
                epoch,
                places.bits,
            )
        raw = [self._hash(segments, repeats, epoch, _DRAWS + i) for i in range(NUM_DRAWS)]
        draws = (np.stack(raw, axis=1) / 2.0**63 - 1.0).astype(np.float32)
        windows = self.windows.take(segments, picked)
        return np.concatenate([segments[:, None], windows], axis=1), draws

    def _hash(
        self, segments: NDArray[np.int64], repeats: NDArray[np.int64], epoch: int, use: int
    ) -> NDArray[np.uint64]:
        """Return a number for each window: of the first one of a segment, that of the segment."""
        return hash_windows(self._ids[segments], repeats, self._seed, epoch, use)


class ValidationSampler:
    """Every window of every segment exactly once over all workers; each worker has as many steps.

    The last step is padded with rows of segment -1, which the counts leave out.

    Attributes:
        windows: All windows of the segments.
        num_windows: Their number.
        batch_size: Windows of a step of this worker.
    """

    def __init__(
        self,
        snippet_lengths: Sequence[Sequence[int]] | Layouts,
        blocks_per_window: int,
        batch_size: int,
        *,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self.windows = LayoutWindows(_as_layouts(snippet_lengths), blocks_per_window)
        counts = self.windows.count_all()
        self._stops = shrink(np.cumsum(counts, dtype=np.int64))
        self.num_windows = int(self._stops[-1]) if len(counts) else 0
        self._num_steps = -(-self.num_windows // (batch_size * num_replicas))
        self.batch_size, self._rank, self._num_replicas = batch_size, rank, num_replicas

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._num_steps

    def __iter__(self) -> Iterator[Step]:
        """Yield this worker's steps, the same in every epoch."""
        return self.steps()

    def steps(self, first: int = 0) -> Iterator[Step]:
        """Yield this worker's steps from step ``first`` on."""
        for step in range(first, self._num_steps):
            start = (step * self._num_replicas + self._rank) * self.batch_size
            size = min(max(self.num_windows - start, 0), self.batch_size)
            places = np.arange(start, start + size).astype(self._stops.dtype)
            segments = np.searchsorted(self._stops, places, side="right")
            before = self._stops[segments].astype(np.int64) - self.windows.count_of(segments)
            rows = np.zeros((self.batch_size, 3), dtype=np.int64)
            rows[:, 0] = -1
            rows[:size, 0] = segments
            rows[:size, 1:] = self.windows.take(segments, places.astype(np.int64) - before)
            yield Step(rows, np.zeros((len(rows), NUM_DRAWS), dtype=np.float32))


def _as_layouts(snippet_lengths: Sequence[Sequence[int]] | Layouts) -> Layouts:
    if isinstance(snippet_lengths, Layouts):
        return snippet_lengths
    return Layouts.of_lengths(snippet_lengths)
