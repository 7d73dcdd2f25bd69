"""Windows of an epoch in places side by side, those of a segment together."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.layouts import Unsigned, shrink
from ophnet_ray.hashing import hash_ids

ORDER = 0
"""Salt of the numbers that order the windows of an epoch."""
PLACES_AT_ONCE = 16_384
"""Places whose numbers are hashed together: few enough to take no memory, enough to take no time
beside it."""


def list_repeats(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each index as often as it counts, and beside it the number of its repetition, from 0.

    Args:
        counts: (N,), from 0.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def hash_windows(
    ids: NDArray[np.uint64], repeats: NDArray[np.int64], *salts: int
) -> NDArray[np.uint64]:
    """Return a number for each window: of the first one of a segment, that of the segment.

    Args:
        ids: Numbers that ``hash_ids`` made of the ids of the windows' segments, (n,).
        repeats: Number of the repetition of the segment, from 0, (n,).
        salts: See ``hash_ids``.
    """
    values = hash_ids(ids, *salts)
    is_repeat = repeats > 0
    values[is_repeat] = hash_ids(values[is_repeat], repeats[is_repeat])
    return values


class EpochPlaces:
    """Windows of an epoch side by side, those of a segment together: the segment of each place.

    Args:
        num_segments: Number of segments, N.
        counts: Windows of each segment, (N,); None for one of each.
    """

    def __init__(self, num_segments: int, counts: NDArray[np.int64] | None) -> None:
        self._num_segments = num_segments
        self._stops = None if counts is None else shrink(np.cumsum(counts))
        num_several = 0 if counts is None else int((counts > 1).sum())
        self.bits = num_several.bit_length()

    def parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield segment and repetition of all places, in order, a part of the segments at once."""
        for start in range(0, self._num_segments, PLACES_AT_ONCE):
            stop = min(start + PLACES_AT_ONCE, self._num_segments)
            segments = np.arange(start, stop)
            if self._stops is None:
                yield segments, np.zeros_like(segments)
                continue
            rows, repeats = list_repeats(self._count(segments))
            yield segments[rows], repeats

    def locate(
        self, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the segment of each place, its repetition, and if the segment has several."""
        if self._stops is None:
            return places, np.zeros_like(places), np.zeros(len(places), dtype=np.bool_)
        segments = np.searchsorted(self._stops, places.astype(self._stops.dtype), side="right")
        counts = self._count(segments)
        repeats = places - (self._stops[segments].astype(np.int64) - counts)
        return segments, repeats, counts > 1

    def place_of(
        self, segments: NDArray[np.int64], repeats: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the place of each window of some segments; the inverse of ``locate``."""
        if self._stops is None:
            return segments
        return self._stops[segments].astype(np.int64) - self._count(segments) + repeats

    def count_up(self, segments: NDArray[np.int64]) -> Unsigned | None:
        """Return the windows before each of some segments, in their order, and those of all.

        None where every segment has one window.
        """
        if self._stops is None:
            return None
        return shrink(np.concatenate([[0], np.cumsum(self._count(segments))]))

    def _count(self, segments: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._stops is None:
            return np.ones_like(segments)
        before = self._stops[np.maximum(segments - 1, 0)].astype(np.int64)
        return self._stops[segments].astype(np.int64) - np.where(segments > 0, before, 0)
