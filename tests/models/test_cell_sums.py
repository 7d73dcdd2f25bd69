"""Sums by cell are those of counting all cells."""

import pytest
import torch

from ophnet_ray.models import cell_sums
from ophnet_ray.models.cell_sums import CellSums

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("max_waiting", [10, 10**6])
def test_sums_do_not_depend_on_how_many_rows_wait(max_waiting, monkeypatch):
    monkeypatch.setattr(cell_sums, "MAX_WAITING", max_waiting)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 50, (200,), generator=generator)
    weights = torch.randint(0, 720_720, (200,), generator=generator)
    sums = CellSums(2, torch.device("cpu"))
    for part in range(0, 200, 8):
        own = slice(part, part + 8)
        sums.add(cells[own], torch.ones_like(cells[own]), weights[own])
    found, counts, weight_sums = sums.sum().T
    assert found.tolist() == sorted(set(cells.tolist()))
    assert counts.tolist() == torch.bincount(cells)[found].tolist()
    expected = torch.zeros(50, dtype=torch.int64).index_add_(0, cells, weights)
    assert weight_sums.tolist() == expected[found].tolist()


def test_no_window_has_no_cell():
    assert CellSums(1, torch.device("cpu")).sum().shape == (0, 2)
