"""Windows of each segment in each epoch: their numbers are functions of the settings alone."""

import numpy as np
import pytest

from ophnet_ray.data.window_counts import WindowCounts
from ophnet_ray.sampling_config import SamplingConfig

pytestmark = pytest.mark.unit

CASES = range(20)
"""Random data sets: 1 to 6 phases, some of them absent, with 1 to 40 segments each."""


def draw_rows(case):
    """Names, labels and lengths of the segments of a random data set."""
    rng = np.random.default_rng(case)
    labels = np.repeat(np.arange(9), rng.integers(0, 2, 9) * rng.integers(1, 41, 9))
    labels = rng.permutation(labels if len(labels) else np.asarray([3]))
    lengths = rng.integers(1, 10 ** rng.integers(1, 6), len(labels))
    return [f"{case}/{i}" for i in range(len(labels))], labels, lengths


def count(case, sampler, windows_per_segment=1, seed=1):
    ids, labels, lengths = draw_rows(case)
    sampling = SamplingConfig(sampler=sampler, windows_per_segment=windows_per_segment)
    return WindowCounts(ids, labels, lengths, sampling, seed), labels, lengths


@pytest.mark.parametrize("sampler", ["segment", "balanced", "seconds"])
@pytest.mark.parametrize("case", CASES)
def test_every_epoch_has_as_many_windows_whatever_the_sampler(case, sampler):
    for windows_per_segment in (1, 3):
        counts, labels, _ = count(case, sampler, windows_per_segment)
        assert counts.total == windows_per_segment * len(labels)
        for epoch in (0, 1, 2, 29, 10**6):
            own = counts.of_epoch(epoch)
            assert own.min() >= 0
            assert own.sum() == counts.total
            np.testing.assert_array_equal(
                own, count(case, sampler, windows_per_segment)[0].of_epoch(epoch)
            )


@pytest.mark.parametrize("case", CASES)
def test_balanced_phases_have_equal_windows_up_to_one_and_their_segments_take_turns(case):
    counts, labels, _ = count(case, "balanced", windows_per_segment=1 + case % 3)
    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes)
    total = np.zeros(len(labels), np.int64)
    for epoch in range(12):
        own = counts.of_epoch(epoch)
        total += own
        for windows in (own, total):
            by_phase = np.bincount(labels, windows)[present]
            assert by_phase.max() - by_phase.min() <= 1
            for phase in present:
                of_phase = windows[labels == phase]
                assert of_phase.max() - of_phase.min() <= 1


@pytest.mark.parametrize("case", CASES)
def test_windows_by_duration_are_the_share_of_segment_and_phase_rounded_up_or_down(case):
    counts, labels, lengths = count(case, "seconds", windows_per_segment=1 + case % 3)
    share = counts.total * lengths / lengths.sum()
    total = np.zeros(len(labels), np.int64)
    for epoch in range(50):
        own = counts.of_epoch(epoch)
        total += own
        assert np.abs(own - share).max() < 1
        by_phase = np.bincount(labels, own - share)
        assert np.abs(by_phase).max() < 1
    assert np.abs(total / 50 - share).max() < 0.1, "the epochs do not even out"


def test_a_short_segment_is_taken_in_turn():
    """Of 1,000 s in ten windows, a segment of 10 s is one of ten epochs' windows."""
    lengths = np.asarray([990_000, *[1_000] * 10])
    ids, labels = [str(i) for i in range(11)], np.zeros(11, np.int64)
    counts = WindowCounts(ids, labels, lengths, SamplingConfig(sampler="seconds"), 0)
    short = np.stack([counts.of_epoch(epoch)[1:] for epoch in range(200)])
    assert short.max() == 1
    assert np.all(np.abs(short.sum(axis=0) - 200 * 11 / 1000) <= 2)


def test_seeds_differ_in_the_turn_of_the_segments():
    """A phase of 40 segments of which an epoch takes some."""
    ids = [str(i) for i in range(44)]
    labels = np.repeat([0, 1], [40, 4])
    sampling = SamplingConfig(sampler="balanced")
    first, second = (
        WindowCounts(ids, labels, np.ones(44, np.int64), sampling, seed).of_epoch(0)
        for seed in (0, 1)
    )
    assert first[:40].sum() == second[:40].sum() == 22
    assert not np.array_equal(first, second)


def test_the_order_of_the_rows_does_not_matter():
    ids, labels, lengths = draw_rows(3)
    for sampler in ("balanced", "seconds"):
        sampling = SamplingConfig(sampler=sampler)
        straight = WindowCounts(ids, labels, lengths, sampling, 5).of_epoch(4)
        reverse = WindowCounts(ids[::-1], labels[::-1], lengths[::-1], sampling, 5).of_epoch(4)
        np.testing.assert_array_equal(straight, reverse[::-1])


def test_a_thousand_hours_of_many_segments_are_counted_without_overflow():
    """The product of windows and milliseconds has more than 64 bits."""
    num_segments, hour_ms = 10_000, 3_600_000
    lengths = np.full(num_segments, 10**6 * hour_ms)
    counts = WindowCounts(
        [str(i) for i in range(num_segments)],
        np.arange(num_segments) % 7,
        lengths,
        SamplingConfig(sampler="seconds"),
        0,
    )
    assert counts.of_epoch(3).tolist() == [1] * num_segments
