"""The order of windows is a function of (seed, epoch, segment); nothing is seen twice or lost."""

import hashlib
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from ophnet_ray.data.samplers import (
    TrainingSampler,
    ValidationSampler,
    find_sizes,
    pick_windows,
    plan_training_steps,
)
from ophnet_ray.data.shard_order import ShardOrder
from ophnet_ray.data.window_counts import WindowCounts
from ophnet_ray.data.windows import cut_windows
from ophnet_ray.hashing import hash_ids
from ophnet_ray.sampling_config import SamplingConfig

pytestmark = pytest.mark.unit

IDS = [f"segment {i}" for i in range(103)]
SNIPPETS = [[1 + i % 5, 4] for i in range(103)]
SAMPLINGS = [
    SamplingConfig(windows_per_segment=3),
    SamplingConfig(sampler="balanced"),
    SamplingConfig(sampler="balanced", windows_per_segment=2),
    SamplingConfig(sampler="seconds", windows_per_segment=2),
]
BY_SHARD = [
    SamplingConfig(shuffle="shard", shuffle_shards=4),
    SamplingConfig(shuffle="shard", shuffle_shards=1),
    SamplingConfig(shuffle="shard", sampler="balanced", windows_per_segment=2),
    SamplingConfig(shuffle="shard", sampler="seconds", windows_per_segment=2, shuffle_shards=3),
]


def make_sampler(sampling, seed=7, batch_size=6, **place):
    """A sampler over segments of three phases, of 90, 10 and 3 of them."""
    labels = np.repeat([2, 0, 5], [90, 10, 3])
    lengths = np.arange(103) * 700 + 1
    counts = WindowCounts(IDS, labels, lengths, sampling, seed)
    if sampling.takes_one_each:
        counts = None
    shards = None
    if sampling.shuffle == "shard":
        # seven segments in each shard, but for the last one
        shards = ShardOrder(hash_ids(IDS), np.arange(103) // 7, sampling.shuffle_shards)
    return TrainingSampler(
        IDS, SNIPPETS, 2, batch_size, seed, counts=counts, shards=shards, **place
    )


def read_epoch(sampler, epoch):
    """The windows and draws of an epoch, in order."""
    sampler.set_epoch(epoch)
    steps = list(sampler)
    return np.concatenate([s.windows for s in steps]), np.concatenate([s.draws for s in steps])


def epoch_of(num_replicas, epoch, batch_size, order=slice(None)):
    """All (id, first block, count) of an epoch, in the order of the steps, ranks joined."""
    ids, snippets = IDS[order], SNIPPETS[order]
    steps = []
    for rank in range(num_replicas):
        sampler = TrainingSampler(
            ids, snippets, 2, batch_size, seed=7, rank=rank, num_replicas=num_replicas
        )
        sampler.set_epoch(epoch)
        steps.append([step.windows for step in sampler])
    joined = np.concatenate([np.concatenate(parts) for parts in zip(*steps, strict=True)])
    return [(ids[segment], first, count) for segment, first, count in joined.tolist()]


def test_workers_joined_take_the_order_of_one_worker():
    one = epoch_of(1, 3, 12)
    assert epoch_of(2, 3, 6) == one
    assert epoch_of(3, 3, 4) == one
    assert epoch_of(1, 3, 12) == one
    assert len({name for name, _, _ in one}) == len(one) == 96


def test_the_order_does_not_depend_on_the_order_of_the_rows():
    reverse = slice(None, None, -1)
    assert epoch_of(1, 0, 103, reverse) == epoch_of(1, 0, 103)


def test_epochs_differ_in_order_and_in_window():
    first, second = epoch_of(1, 0, 103), epoch_of(1, 1, 103)
    assert [name for name, _, _ in first] != [name for name, _, _ in second]
    assert {n: f for n, f, _ in first} != {n: f for n, f, _ in second}


def test_a_run_of_another_version_is_resumed_with_the_same_windows():
    """Numbers of commit 8e23bbc: a change would alter the rest of every run that is resumed."""
    sampler = TrainingSampler(IDS, SNIPPETS, 2, 12, seed=7)
    sampler.set_epoch(3)
    step = next(iter(sampler))
    assert step.windows[:4].tolist() == [[0, 3, 2], [68, 6, 2], [17, 1, 2], [15, 3, 2]]
    np.testing.assert_allclose(
        step.draws[0], [-0.00855, -0.101193, -0.513045, -0.347367, 0.507074], atol=1e-6
    )


@pytest.mark.parametrize(
    ("rank", "num_replicas", "epoch", "seed", "digest"),
    [
        (0, 1, 0, 7, "bbf103d9df753d40"),
        (0, 1, 5, 7, "e43b3163f6a6a830"),
        (1, 2, 1, 42, "ece72da6b2e91e82"),
        (2, 3, 30, 2**40, "ce869b7ae6fbe2de"),
    ],
)
def test_whole_epochs_are_those_of_earlier_versions(rank, num_replicas, epoch, seed, digest):
    """Digests of commit 15deeaf, which knew no other sampler: windows and draws, bit for bit."""
    place = {"rank": rank, "num_replicas": num_replicas}
    for sampler in (
        TrainingSampler(IDS, SNIPPETS, 2, 6, seed, **place),
        make_sampler(SamplingConfig(), seed, **place),
    ):
        found = hashlib.blake2b(digest_size=8)
        sampler.set_epoch(epoch)
        for step in sampler:
            found.update(step.windows.astype("<i8").tobytes())
            found.update(step.draws.astype("<f4").tobytes())
        assert found.hexdigest() == digest


def test_a_long_segment_of_which_many_windows_are_taken_costs_what_its_windows_do():
    """Its windows are not listed anew for each that is taken: that would be 72 MB here."""
    num_windows = 3000
    sampling = SamplingConfig(windows_per_segment=num_windows)
    counts = WindowCounts(["long"], np.zeros(1, np.int64), np.asarray([900]), sampling, 7)
    sampler = TrainingSampler(["long"], [[num_windows + 1]], 2, 50, 7, counts=counts)
    tracemalloc.start()
    try:
        windows = np.concatenate([step.windows for step in sampler])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(np.unique(windows, axis=0)) == num_windows
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize("sampling", [*SAMPLINGS, *BY_SHARD[2:]], ids=repr)
def test_the_windows_of_a_segment_differ_until_it_has_no_other(sampling):
    own_windows = [cut_windows(lengths, 2) for lengths in SNIPPETS]
    for epoch in range(3):
        windows, draws = read_epoch(make_sampler(sampling, batch_size=1), epoch)
        assert len(windows) == sampling.count_windows(len(IDS))
        assert len(np.unique(draws, axis=0)) == len(draws), "two windows are augmented alike"
        for segment, num_taken in Counter(windows[:, 0].tolist()).items():
            taken = Counter(map(tuple, windows[windows[:, 0] == segment, 1:].tolist()))
            every = list(map(tuple, own_windows[segment].tolist()))
            assert taken.keys() <= set(every)
            most = -(-num_taken // len(every))
            assert max(taken.values()) == most
            assert len(taken) == min(num_taken, len(every))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=repr)
def test_the_first_window_of_a_segment_is_that_of_one_window_per_segment(sampling):
    windows, draws = read_epoch(make_sampler(sampling, batch_size=1), 2)
    first, first_draws = read_epoch(make_sampler(SamplingConfig(), batch_size=1), 2)
    rows = set(map(bytes, np.concatenate([windows, draws * 2**24], axis=1).astype(np.int64)))
    expected = np.concatenate([first, first_draws * 2**24], axis=1).astype(np.int64)
    for row in expected:
        assert (bytes(row) in rows) == (row[0] in windows[:, 0])


@pytest.mark.parametrize("sampling", [*SAMPLINGS, *BY_SHARD], ids=repr)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_any_workers_take_the_same_windows_in_each_step(sampling, workers):
    """Steps of twelve windows, and every worker resumed at its second step."""
    place = {"num_replicas": workers, "begun_with": 4, "batch_size": 3}
    parts = [make_sampler(sampling, rank=rank, **place) for rank in range(workers)]
    whole = make_sampler(sampling, batch_size=12)
    for sampler in (*parts, whole):
        sampler.set_epoch(1)
    num_batches = parts[0].plan.num_accumulated
    assert workers * num_batches * parts[0].plan.batch_size == 12
    batches = [list(each.steps(num_batches)) for each in parts]
    assert len(batches[0]) == num_batches * (len(whole) - 1)
    for number, step in enumerate(whole.steps(1)):
        rows = slice(number * num_batches, (number + 1) * num_batches)
        together = [b for group in zip(*(own[rows] for own in batches), strict=True) for b in group]
        np.testing.assert_array_equal(np.concatenate([b.windows for b in together]), step.windows)
        np.testing.assert_array_equal(np.concatenate([b.draws for b in together]), step.draws)


def test_the_picked_window_is_the_one_that_training_takes():
    windows = [cut_windows(lengths, 2) for lengths in SNIPPETS]
    counts = np.asarray([len(w) for w in windows], dtype=np.uint64)
    for epoch in range(3):
        picked = pick_windows(hash_ids(IDS), counts, 7, epoch)
        taken = {name: (first, count) for name, first, count in epoch_of(1, epoch, 103)}
        for name, of_segment, index in zip(IDS, windows, picked, strict=True):
            assert tuple(of_segment[index]) == taken[name]


def test_every_window_of_a_segment_is_picked_equally_often():
    picks = [
        {name: first for name, first, _ in epoch_of(1, epoch, 103)}["segment 4"]
        for epoch in range(700)
    ]
    counts = np.unique(picks, return_counts=True)[1]
    assert len(counts) == 4 + 3  # snippets of five and four blocks, two blocks per window
    assert counts.min() > 60


@pytest.mark.parametrize(
    ("num_windows", "batch_size", "replicas", "plan"),
    [(100, 8, 1, (12, 8, 4)), (100, 8, 3, (4, 8, 4)), (2, 8, 1, (1, 2, 0)), (5, 8, 2, (1, 2, 1))],
)
def test_fewer_windows_than_a_step_are_left_out(num_windows, batch_size, replicas, plan):
    assert plan_training_steps(num_windows, batch_size, replicas) == (*plan, 1)
    assert plan[2] < batch_size * replicas


@pytest.mark.parametrize(
    ("begun_with", "workers"), [(2, 1), (1, 2), (2, 4), (4, 2), (3, 1), (2, 3)]
)
def test_other_workers_take_the_windows_of_each_step_that_the_run_began_with(begun_with, workers):
    def steps_of(num_replicas):
        parts = [
            TrainingSampler(
                IDS, SNIPPETS, 2, 6, 7, rank=rank, num_replicas=num_replicas, begun_with=begun_with
            )
            for rank in range(num_replicas)
        ]
        plan = parts[0].plan
        assert plan.batch_size <= 6
        batches = [step.windows for together in zip(*parts, strict=True) for step in together]
        size = plan.num_accumulated * num_replicas
        return [
            np.concatenate(batches[i : i + size]).tolist() for i in range(0, len(batches), size)
        ]

    assert steps_of(workers) == steps_of(begun_with)


def test_workers_that_cannot_share_a_step_equally_are_refused():
    with pytest.raises(ValueError, match=r"8 windows, which 3 workers cannot .*; 1, 2, 4, 8 can"):
        plan_training_steps(100, 4, 3, begun_with=2)


@pytest.mark.parametrize("num_replicas", [1, 2, 3])
@pytest.mark.parametrize("num_segments", [1, 2, 17])
def test_every_validation_window_comes_once_whatever_the_workers(num_replicas, num_segments):
    snippets = SNIPPETS[:num_segments]
    seen, steps = [], set()
    for rank in range(num_replicas):
        sampler = ValidationSampler(snippets, 2, 8, rank=rank, num_replicas=num_replicas)
        batches = [step.windows for step in sampler]
        steps.add(len(batches))
        seen += [tuple(row) for batch in batches for row in batch.tolist() if row[0] >= 0]
    expected = sum(max(a - 1, 0) + 3 for a, _ in snippets)
    assert len(seen) == len(set(seen)) == expected
    assert len(steps) == 1


def test_draws_are_uniform_in_plus_minus_one():
    draws = np.concatenate([step.draws for step in TrainingSampler(IDS, SNIPPETS, 2, 1, seed=7)])
    assert draws.shape == (103, 5)
    assert -1 <= draws.min() < -0.9
    assert 0.9 < draws.max() <= 1
    assert abs(draws.mean()) < 0.1


def test_only_numbers_of_workers_that_share_the_steps_are_taken():
    """Steps of 4 x 3 windows: 5 workers cannot share them, and 7 to 11 neither."""
    assert find_sizes(100, 3, range(1, 13), begun_with=4) == (1, 2, 3, 4, 6, 12)
    with pytest.raises(ValueError, match="each step has 12 windows, which 5 workers cannot"):
        find_sizes(100, 3, [5], begun_with=4)
