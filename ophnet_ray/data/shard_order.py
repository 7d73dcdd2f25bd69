"""The shard-wise order of an epoch's windows: a few shards are open at a time, and mixed.

The order is a function of (seed, epoch) and of the groups alone. A step of B windows, those of all
workers together, has L *lanes*, where L divides B. The shards, in random order, lie end to end, and
L equal stretches of that line are the lanes: each step takes B / L windows of every lane. A worker
has a fixed share of each step, and so reads the shards of its own lanes only. Any number of workers
that share the steps takes the same windows in each of them.

Within a lane, the windows of shard j, counted from the lane's start, are drawn with uniform keys
in [j, j + k) and come in the order of the keys: at any time k shards are open, and each window may
move by about k shards. Such an order is found for any part of an epoch from the shards around it,
which bounds memory and lets a run resume anywhere. (MosaicML Streaming calls this idea ``py1e``.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.epoch_places import ORDER, EpochPlaces, hash_windows
from ophnet_ray.data.layouts import Unsigned, shrink
from ophnet_ray.hashing import hash_ids

_SHARDS, _ROTATION = 1001, 1002
"""Salts; those of ``samplers`` and ``window_counts`` are others."""
_KEY_BITS = 32


class ShareOfSteps(NamedTuple):
    """Share of a worker in the steps of an epoch.

    Every optimiser step has ``num_accumulated * num_replicas * batch_size`` windows; batch a of a
    worker in it holds the places ``[(a * num_replicas + rank) * batch_size, ...)``.
    """

    rank: int
    num_replicas: int
    batch_size: int
    num_accumulated: int
    num_batches: int

    @property
    def step_size(self) -> int:
        """Windows of an optimiser step, over all workers."""
        return self.num_accumulated * self.num_replicas * self.batch_size


class ShardOrder:
    """Segments in groups that lie in one shard each.

    Args:
        ids: Numbers that ``hash_ids`` made of the ids of the segments, (N,).
        groups: Number of the shard of each segment, (N,). The order depends on which segments
            share one, not on the numbers.
        num_mixed: Shards that are open at a time over all workers; at least 1.
    """

    def __init__(self, ids: NDArray[np.uint64], groups: Unsigned, num_mixed: int) -> None:
        members = np.lexsort((ids, groups))
        ordered = groups[members]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.ids = ids
        self.members = shrink(members)
        """Segments, those of a group together, ascending by id."""
        self.first = np.concatenate([first, [len(members)]])
        """Index among the members of the first one of each group, and their number, (G + 1,)."""
        self.names = ids[members[first]]
        """Number of each group, whatever the order of the rows, (G,)."""
        self.num_mixed = num_mixed

    def of_epoch(
        self, places: EpochPlaces, seed: int, epoch: int, share: ShareOfSteps
    ) -> "EpochShards":
        """Lay the shards of an epoch end to end."""
        return EpochShards(self, places, (seed, epoch), share)


class EpochShards:
    """The places of one worker's windows in an epoch, found part by part.

    Args:
        shards: The groups.
        places: Places of the epoch.
        salts: Seed and epoch.
        share: Share of the worker.
    """

    def __init__(
        self, shards: ShardOrder, places: EpochPlaces, salts: tuple[int, int], share: ShareOfSteps
    ) -> None:
        self._places, self._share, self._salts = places, share, salts
        self._ids, self._members = shards.ids, shards.members
        # windows of the members before each one, (N + 1,); None where each has one
        self._stops = places.count_up(shards.members.astype(np.int64))
        before = shards.first if self._stops is None else self._stops[shards.first]
        sizes = np.diff(before.astype(np.int64))
        order = np.argsort(hash_ids(shards.names, *salts, _SHARDS), kind="stable")
        order = order[sizes[order] > 0]
        self._sizes, self._before = sizes[order], before[order].astype(np.int64)
        self._line = np.concatenate([[0], np.cumsum(self._sizes)])
        turns = hash_ids(shards.names[order], *salts, _ROTATION)
        self._turns = (turns % self._sizes.astype(np.uint64)).astype(np.int64)
        step_size = share.step_size
        self._num_lanes = max(
            n for n in range(1, min(shards.num_mixed, step_size) + 1) if step_size % n == 0
        )
        self._num_open = max(shards.num_mixed // self._num_lanes, 1)
        self._width = step_size // self._num_lanes
        self._length = share.num_batches // share.num_accumulated * self._width

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the places of the worker's batches ``[start, stop)``, (batches, windows)."""
        share = self._share
        first_step = start // share.num_accumulated
        steps = range(first_step, -(-stop // share.num_accumulated))
        batches = np.arange(share.num_accumulated)[:, None] * share.num_replicas + share.rank
        slots = batches * share.batch_size + np.arange(share.batch_size)
        lanes, numbers = np.unique(slots // self._width, return_inverse=True)
        read = [
            self._read_lane(lane, steps.start * self._width, steps.stop * self._width)
            for lane in lanes.tolist()
        ]
        by_lane = np.stack(read).reshape(len(lanes), len(steps), self._width)
        # (accumulated, b, steps) -> (steps * accumulated, b)
        taken = by_lane[numbers.reshape(slots.shape), :, slots % self._width]
        own = taken.transpose(2, 0, 1).reshape(-1, share.batch_size)
        skipped = start - first_step * share.num_accumulated
        return own[skipped : skipped + stop - start]

    def _read_lane(self, lane: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the places that a lane gives from one of its windows to another."""
        begin, end = lane * self._length, (lane + 1) * self._length
        low = int(np.searchsorted(self._line, begin, side="right")) - 1
        high = int(np.searchsorted(self._line, end, side="left"))
        shards, bounds = np.arange(low, high), np.clip(self._line[low : high + 1], begin, end)
        is_reverse = lane % 2
        if is_reverse:
            # neighbours meet at the shard that they share: it is read by both at the same time
            shards, bounds = shards[::-1], (begin + end - bounds)[::-1]
        bounds = bounds - begin
        # all shards from which one of these windows may come
        first = int(np.searchsorted(bounds, start, side="right")) - self._num_open
        last = int(np.searchsorted(bounds, stop - 1, side="right")) + self._num_open - 1
        first, last = max(first, 0), min(last, len(shards))
        found = np.repeat(np.arange(first, last), np.diff(bounds[first : last + 1]))
        positions = begin + np.arange(bounds[first], bounds[last])
        if is_reverse:
            positions = begin + end - 1 - positions
        places, hashes = self._identify(shards[found], positions)
        spread = (hashes >> np.uint64(64 - _KEY_BITS)).astype(np.int64) * self._num_open
        order = np.argsort((found << _KEY_BITS) + spread, kind="stable")
        ordered: NDArray[np.int64] = places[order]
        return ordered[start - bounds[first] : stop - bounds[first]]

    def _identify(
        self, shards: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return the places at positions of the line, whose shards are given, and their numbers."""
        # turned at random: the same windows would lie at the ends, where some are left out
        indices = (positions - self._line[shards] + self._turns[shards]) % self._sizes[shards]
        indices += self._before[shards]
        if self._stops is None:
            members, repeats = indices, np.zeros_like(indices)
        else:
            members = np.searchsorted(self._stops, indices.astype(self._stops.dtype), "right") - 1
            repeats = indices - self._stops[members].astype(np.int64)
        segments = self._members[members].astype(np.int64)
        hashes = hash_windows(self._ids[segments], repeats, *self._salts, ORDER)
        return self._places.place_of(segments, repeats), hashes
