"""Counts by case, label and prediction without those that are 0, which are nearly all."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class CellCounts:
    """Counts of C cases and K phases above 0, ascending by cell.

    A case shows few of the phases, and a model takes each for few others: of C * K^2 cells, one in
    a hundred is not 0.
    """

    num_cases: int
    num_classes: int
    cells: NDArray[np.int64]
    """(case * K + label) * K + prediction, (M,), ascending."""
    counts: NDArray[Any]
    """Count of each cell, (M,): windows as int64, shares of segments as float64."""

    @classmethod
    def of_dense(cls, counts_by_case: NDArray[Any]) -> Self:
        """Take the counts above 0 from (C, K, K)."""
        num_cases, num_classes, _ = counts_by_case.shape
        values = counts_by_case.reshape(-1)
        cells = np.flatnonzero(values)
        return cls(num_cases=num_cases, num_classes=num_classes, cells=cells, counts=values[cells])

    @classmethod
    def empty(cls, num_cases: int, num_classes: int) -> Self:
        """Return counts that are all 0."""
        none = np.empty(0, dtype=np.int64)
        return cls(num_cases=num_cases, num_classes=num_classes, cells=none, counts=none)

    def to_dense(self) -> NDArray[Any]:
        """Return all counts, (C, K, K)."""
        shape = self.num_cases, self.num_classes, self.num_classes
        values = np.zeros(np.prod(shape), dtype=self.counts.dtype)
        values[self.cells] = self.counts
        return values.reshape(shape)

    def sum(self) -> NDArray[Any]:
        """Return the sum over the cases, (K, K), added case by case."""
        total = np.zeros(self.num_classes**2, dtype=self.counts.dtype)
        np.add.at(total, self.cells % self.num_classes**2, self.counts)
        return total.reshape(self.num_classes, self.num_classes)
