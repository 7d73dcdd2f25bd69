"""Result of a decode task as bytes: columns, without what the one who gave the task knows."""

import pickle
from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter
from typing import Any

from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.cache.store import DecodeResult
from ophnet_ray.data.cache.task_plan import DecodeTask

_NAMES = [field.name for field in fields(CacheEntry) if field.name != "key"]
_read_values = attrgetter(*_NAMES)


def pack_result(done: DecodeResult, task: DecodeTask) -> bytes:
    """Return a result as bytes, about half as many as its pickle has.

    Keys and videos are written as positions in the task; a value that is repeated in a column, such
    as the path of the shard, is written once.

    Args:
        done: The result; its keys and videos are among those of the task.
        task: The task.
    """
    position_of = {key: i for i, (_, key) in enumerate(task)}
    rows = ((position_of[entry.key], *_read_values(entry)) for entry in done.entries)
    columns = [_share_equal(column) for column in zip(*rows, strict=True)]
    first_of = {segment.video: i for i, (segment, _) in reversed(list(enumerate(task)))}
    videos = sorted(first_of[video] for video in done.videos)
    return pickle.dumps((columns, videos, done.num_blocks))


def unpack_result(packed: bytes, task: DecodeTask) -> DecodeResult:
    """Return the result of a task from ``pack_result``; keys and videos are the task's objects."""
    columns, videos, num_blocks = pickle.loads(packed)  # noqa: S301 - our own bytes
    entries = tuple(
        CacheEntry(task[position][1], **dict(zip(_NAMES, values, strict=True)))
        for position, *values in zip(*columns, strict=True)
    )
    return DecodeResult(entries, frozenset(task[i][0].video for i in videos), num_blocks)


def _share_equal(column: Iterable[Any]) -> list[Any]:
    """Return the values of one type, equal ones as one object, which pickle writes once."""
    known: dict[Any, Any] = {}
    return [known.setdefault(value, value) for value in column]
