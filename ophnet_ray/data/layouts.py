"""Layouts of segments: the blocks of their snippets, each distinct layout kept once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.windows import cut_windows

Unsigned = NDArray[np.unsignedinteger[Any]]


def shrink(values: NDArray[np.integer[Any]]) -> Unsigned:
    """Return non-negative integers in the smallest unsigned type that holds them."""
    largest = int(values.max()) if len(values) else 0
    return values.astype(np.min_scalar_type(largest))


def number_by_first(
    values: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
    """Number values in the order in which they first occur.

    Returns:
        The distinct values, and the number of each value, (N,).
    """
    ascending, first, numbers = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    new_number = np.empty_like(order)
    new_number[order] = np.arange(len(order))
    return ascending[order], new_number[numbers]


@dataclass(frozen=True, eq=False)
class Layouts:
    """Numbers of blocks of the snippets of segments.

    There are few: a segment holds ``max_frames`` at most, and most segments hold as many.
    """

    kinds: tuple[tuple[int, ...], ...]
    """The distinct layouts."""
    numbers: Unsigned
    """Index of each segment's layout, (N,)."""

    @classmethod
    def of_lengths(cls, snippet_lengths: Sequence[Sequence[int]]) -> Self:
        """Collect the layouts of segments in the order of their first segments."""
        number_of: dict[tuple[int, ...], int] = {}
        numbers = np.fromiter(
            (number_of.setdefault(tuple(lengths), len(number_of)) for lengths in snippet_lengths),
            np.int64,
            len(snippet_lengths),
        )
        return cls(tuple(number_of), shrink(numbers))

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.numbers)

    def count_blocks(self) -> Unsigned:
        """Return the blocks of each segment, (N,)."""
        blocks = np.asarray([sum(kind) for kind in self.kinds], dtype=np.int64)
        counted: Unsigned = shrink(blocks)[self.numbers]
        return counted


class LayoutWindows:
    """Windows of segments, see ``windows.cut_windows``.

    Args:
        layouts: Layouts of the segments.
        blocks_per_window: See ``WindowConfig``.
    """

    def __init__(self, layouts: Layouts, blocks_per_window: int) -> None:
        cut = [cut_windows(kind, blocks_per_window) for kind in layouts.kinds]
        self._table = np.concatenate([np.empty((0, 2), dtype=np.int64), *cut])
        self._counts = np.asarray([len(windows) for windows in cut], dtype=np.int64)
        self._first = np.cumsum(self._counts) - self._counts
        self._numbers = layouts.numbers

    def count_all(self) -> Unsigned:
        """Return the windows of each segment, (N,)."""
        counted: Unsigned = shrink(self._counts)[self._numbers]
        return counted

    def count_of(self, segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows of some segments.

        Args:
            segments: Their indices, (n,).
        """
        counted: NDArray[np.int64] = self._counts[self._numbers[segments]]
        return counted

    def take(self, segments: NDArray[np.int64], windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a window of each of some segments.

        Args:
            segments: Their indices, (n,).
            windows: Index of the window among those of its segment, (n,).

        Returns:
            First block and number of blocks, (n, 2).
        """
        taken: NDArray[np.int64] = self._table[self._first[self._numbers[segments]] + windows]
        return taken
