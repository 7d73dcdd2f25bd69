"""Keys of segments as columns: 16 bytes each, and a text only where one is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
"""Size of a key, which its text gives as hexadecimal digits."""
KEY_TYPE = np.dtype([("high", ">u8"), ("low", ">u8")])
"""A key as its bytes are; so the order of the numbers is that of the texts."""


@dataclass(frozen=True, eq=False)
class KeyColumns(Sequence[str]):
    """Keys in any order; the same key may occur several times.

    Attributes:
        high: First eight bytes of each key, (N,).
        low: Its last eight bytes, (N,).
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]

    @classmethod
    def of_bytes(cls, keys: bytes | bytearray) -> Self:
        """Read keys, one after the other."""
        return cls.of_pairs(np.frombuffer(keys, KEY_TYPE))

    @classmethod
    def of_pairs(cls, pairs: NDArray[np.void]) -> Self:
        """Return the keys of records with the fields of ``KEY_TYPE``."""
        return cls(pairs["high"].astype(np.uint64), pairs["low"].astype(np.uint64))

    @classmethod
    def of_texts(cls, keys: Iterable[str]) -> Self:
        """Turn texts into columns; columns are returned as they are.

        Raises:
            ValueError: A text is no key.
        """
        if isinstance(keys, cls):
            return keys
        texts = list(keys)
        joined = bytes.fromhex("".join(texts))
        if len(joined) != KEY_BYTES * len(texts) or any(len(t) != 2 * KEY_BYTES for t in texts):
            raise ValueError(f"a key has {2 * KEY_BYTES} hexadecimal digits")
        return cls.of_bytes(joined)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.high)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> str | Self:
        """Return a key as text, or several as columns."""
        if isinstance(index, slice):
            return type(self)(self.high[index], self.low[index])
        return f"{int(self.high[index]):016x}{int(self.low[index]):016x}"

    def __iter__(self) -> Iterator[str]:
        """Yield the keys as texts."""
        for high, low in zip(self.high.tolist(), self.low.tolist(), strict=True):
            yield f"{high:016x}{low:016x}"

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the keys of some rows."""
        return type(self)(self.high[rows], self.low[rows])

    def join(self, other: Self) -> Self:
        """Return these keys and other ones after them."""
        return type(self)(
            np.concatenate([self.high, other.high]), np.concatenate([self.low, other.low])
        )

    def to_bytes(self) -> bytes:
        """Return the keys one after the other."""
        pairs = np.empty(len(self), KEY_TYPE)
        pairs["high"], pairs["low"] = self.high, self.low
        return pairs.tobytes()

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows in the order of their keys; those of equal keys ascend."""
        order = np.argsort(self.high, kind="stable")
        high = self.high[order]
        if (same := high[1:] == high[:-1]).any():
            # nearly always equal keys: rows of the same interval
            low = self.low[order]
            if (same & (low[1:] < low[:-1])).any():
                return np.lexsort((self.low, self.high))
        return order

    def number(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number the distinct keys in the order in which they first occur.

        Returns:
            The first row of each distinct key, ascending, and the number of each row's key, (N,).
        """
        ordered = self.take(self.order)
        is_first = np.ones(len(self), dtype=np.bool_)
        is_first[1:] = (ordered.high[1:] != ordered.high[:-1]) | (
            ordered.low[1:] != ordered.low[:-1]
        )
        first_rows = self.order[is_first]
        # numbers in the order of the keys → in the order of the rows
        by_row = np.argsort(first_rows)
        new_number = np.empty_like(by_row)
        new_number[by_row] = np.arange(len(by_row))
        numbers = np.empty(len(self), dtype=np.int64)
        numbers[self.order] = new_number[np.cumsum(is_first) - 1]
        return first_rows[by_row], numbers


def parse_key(text: str) -> bytes:
    """Return the bytes of a key.

    Raises:
        ValueError: The text is no key.
    """
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
        raise ValueError(f"{text!r} is no key of {2 * KEY_BYTES} hexadecimal digits")
    return key


class KeyJoin:
    """Join of keys that are asked for with sorted keys of a table.

    Args:
        asked: The keys.
    """

    def __init__(self, asked: KeyColumns) -> None:
        self.asked = asked
        self._sorted = asked.take(asked.order)

    def match(self, table: KeyColumns) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield rows of the keys, each with a row of the table that has the same key.

        A row that occurs in several rows of the table comes in as many turns, once in each.

        Args:
            table: Keys in ascending order.
        """
        # sorted on both sides: the search walks through the table once
        places = np.searchsorted(table.high, self._sorted.high)
        rows = np.arange(len(self._sorted))
        while True:
            is_inside = places < len(table)
            rows, places = rows[is_inside], places[is_inside]
            is_near = table.high[places] == self._sorted.high[rows]
            rows, places = rows[is_near], places[is_near]
            if not len(rows):
                return
            is_same = table.low[places] == self._sorted.low[rows]
            yield self.asked.order[rows[is_same]], places[is_same]
            places = places + 1
