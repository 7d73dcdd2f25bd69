"""Entries of a cache by key or by segment, for tests that look at single ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.fill import fill_cache
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment


@dataclass(frozen=True)
class FilledById:
    """``FillResult`` with its entries by the ids of the segments."""

    entries: dict[str, CacheEntry]
    missing_videos: int
    decoded_videos: int


def fill_by_id(cache: BlockCache, segments: Sequence[Segment], *arguments: Any) -> FilledById:
    """Call ``fill_cache``."""
    filled = fill_cache(cache, segments, *arguments)
    ids = [segment.segment_id for segment in segments]
    entries = dict(zip(ids, filled.entries, strict=True))
    return FilledById(entries, filled.missing_videos, filled.decoded_videos)


def by_key(keys: Sequence[str], entries: CacheEntries) -> dict[str, CacheEntry]:
    """Return the entries that are there, by their keys."""
    there = entries.is_there.tolist()
    return {key: replace(entries[i], key=key) for i, key in enumerate(keys) if there[i]}


def find_entries(cache: BlockCache, keys: Iterable[str]) -> dict[str, CacheEntry]:
    """Return the entries that a cache holds of some keys, by key."""
    wanted = KeyColumns.of_texts(keys)
    return by_key(wanted, cache.find(wanted))
