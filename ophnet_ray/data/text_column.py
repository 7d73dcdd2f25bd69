"""Column of texts of which many are equal: each distinct text is kept once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096
"""Rows that are turned into Python objects at a time: small beside a table, large beside a loop."""


@dataclass(frozen=True, eq=False)
class TextColumn:
    """Texts of N rows.

    Attributes:
        texts: Distinct texts; some may occur in no row, as those of rows that were left out.
        numbers: Index of each row's text, int32 (N,).
    """

    texts: tuple[str, ...]
    numbers: NDArray[np.int32]

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Self:
        """Collect the texts of rows; they are numbered in the order in which they first occur."""
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(text, len(number_of)) for text in texts]
        return cls(tuple(number_of), np.asarray(numbers, dtype=np.int32))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.numbers)

    def __getitem__(self, row: int) -> str:
        """Return the text of a row."""
        text: str = self.texts[self.numbers[row]]
        return text

    def __iter__(self) -> Iterator[str]:
        """Yield the text of each row."""
        texts = self.texts
        for first in range(0, len(self), ROWS_AT_ONCE):
            for number in self.numbers[first : first + ROWS_AT_ONCE].tolist():
                yield texts[number]

    def take(self, rows: Any) -> Self:
        """Return the texts of some rows.

        Args:
            rows: Index of an array: a slice, a mask (N,), or row numbers.
        """
        return type(self)(self.texts, self.numbers[rows])

    def count(self) -> NDArray[np.int64]:
        """Return the number of rows with each of ``texts``."""
        return np.bincount(self.numbers, minlength=len(self.texts)).astype(np.int64, copy=False)

    def number_present(self) -> NDArray[np.int64]:
        """Return the numbers that rows have, in the order in which they first occur."""
        num_rows = len(self.numbers)
        first_rows = np.full(len(self.texts), num_rows, dtype=np.int64)
        # of several rows the last one is kept, which is the first one of the table
        first_rows[self.numbers[::-1]] = np.arange(num_rows - 1, -1, -1)
        present = np.argsort(first_rows, kind="stable")
        return present[: np.count_nonzero(first_rows < num_rows)]

    def list_present(self) -> list[str]:
        """Return the distinct texts of the rows, in the order in which they first occur."""
        return [self.texts[number] for number in self.number_present().tolist()]

    def find(self, wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Return a mask of the rows whose texts pass a test, (N,); each text is tested once."""
        passed = np.fromiter(map(wanted, self.texts), np.bool_, len(self.texts))
        found: NDArray[np.bool_] = passed[self.numbers]
        return found

    def equal(self, text: str) -> NDArray[np.bool_]:
        """Return a mask of the rows that have a text, (N,)."""
        return self.find(lambda each: each == text)

    def look_up(self, number_of: Mapping[str, int]) -> NDArray[np.int64]:
        """Return a number for the text of each row, (N,).

        Args:
            number_of: Number of each text that a row has, e.g. the label of a phase.

        Raises:
            KeyError: The text of a row has none.
        """
        numbers = np.full(len(self.texts), -1, dtype=np.int64)
        for number in self.number_present().tolist():
            numbers[number] = number_of[self.texts[number]]
        found: NDArray[np.int64] = numbers[self.numbers]
        return found

    def rename(self, name_of: Callable[[str], str]) -> Self:
        """Return the rows with other texts; equal new texts become one.

        Args:
            name_of: Returns the new text for an old one; called for texts that rows have.
        """
        number_of: dict[str, int] = {}
        numbers = np.full(len(self.texts), -1, dtype=np.int32)
        for number in self.number_present().tolist():
            name = name_of(self.texts[number])
            numbers[number] = number_of.setdefault(name, len(number_of))
        return type(self)(tuple(number_of), numbers[self.numbers])

    def map_texts(self, change: Callable[[str], str]) -> Self:
        """Return the rows with changed texts, of which no two become equal.

        Args:
            change: Returns the new text for an old one.
        """
        return type(self)(tuple(map(change, self.texts)), self.numbers)

    def renumber(self) -> Self:
        """Return the rows with their texts numbered in the order in which they first occur."""
        return self.rename(str)

    def replace_some(self, rows: NDArray[np.bool_], text: str) -> Self:
        """Return the column with one text in some rows.

        Args:
            rows: Mask of the rows that get it, (N,).
            text: The text.
        """
        if text in self.texts:
            number, texts = self.texts.index(text), self.texts
        else:
            number, texts = len(self.texts), (*self.texts, text)
        return type(self)(texts, np.where(rows, np.int32(number), self.numbers))


def join_columns(parts: Sequence[TextColumn]) -> TextColumn:
    """Return the rows of several columns, one after the other."""
    number_of: dict[str, int] = {}
    joined = [np.empty(0, dtype=np.int32)]
    for part in parts:
        numbers = [number_of.setdefault(text, len(number_of)) for text in part.texts]
        joined.append(np.asarray(numbers, dtype=np.int32)[part.numbers])
    return TextColumn(tuple(number_of), np.concatenate(joined))
