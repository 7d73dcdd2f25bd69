"""Counts by case without those that are 0: nothing is lost, and sums are the same bits."""

import numpy as np
import pytest

from ophnet_ray.metrics.cell_counts import CellCounts

pytestmark = pytest.mark.unit


def draw_counts(dtype):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, (40, 13, 13)) * (rng.random((40, 13, 13)) < 0.1)
    return counts.astype(dtype) / (720_720 if dtype is np.float64 else 1)


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_all_counts_come_back(dtype):
    dense = draw_counts(dtype)
    counts = CellCounts.of_dense(dense)
    assert len(counts.cells) == np.count_nonzero(dense)
    np.testing.assert_array_equal(counts.to_dense(), dense)


def test_the_sum_over_cases_is_that_of_all_counts_to_the_last_bit():
    dense = draw_counts(np.float64)
    assert CellCounts.of_dense(dense).sum().tobytes() == dense.sum(axis=0).tobytes()


def test_no_counts_are_zeros():
    assert CellCounts.empty(3, 2).to_dense().tolist() == np.zeros((3, 2, 2)).tolist()
    assert CellCounts.empty(3, 2).sum().tolist() == [[0, 0], [0, 0]]
