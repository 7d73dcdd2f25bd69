"""Sums of a validation by case, label and prediction, on the device and over all workers."""

import torch
from torch import Tensor

MAX_WAITING = 1_000_000
"""Rows after which those of equal cells are added up."""


class CellSums:
    """Integers summed by cell: memory for the cells that come, not for all that there are.

    Whole numbers have the same sums in any order, on any device and any number of workers.

    Args:
        width: Integers of each row.
        device: Device of the rows.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._rows: list[Tensor] = [torch.empty((0, 1 + width), dtype=torch.int64, device=device)]
        self._num_rows = 0

    def add(self, cells: Tensor, *values: Tensor) -> None:
        """Add the values of some cells, which may repeat.

        Args:
            cells: int64 (n,), from 0.
            values: ``width`` tensors, int64 (n,).
        """
        # nothing is read back here: that would wait for the step to end
        self._rows.append(torch.stack([cells, *values], dim=1))
        self._num_rows += len(cells)
        if self._num_rows > MAX_WAITING:
            self._rows = [self.sum()]
            self._num_rows = 0

    def sum(self) -> Tensor:
        """Return the cells, ascending, each with the sums of its values, int64 (M, 1 + width)."""
        rows = torch.cat(self._rows)
        cells, owners = torch.unique(rows[:, 0], return_inverse=True)
        sums = torch.zeros((len(cells), rows.shape[1] - 1), dtype=torch.int64, device=rows.device)
        sums.index_add_(0, owners, rows[:, 1:])
        return torch.cat([cells[:, None], sums], dim=1)
