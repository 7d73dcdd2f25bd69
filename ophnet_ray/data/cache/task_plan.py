"""Plan of decode tasks: the rows that a worker decodes together; a task is made in its turn."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.shards import bytes_per_block
from ophnet_ray.data.cache.store import SHARD_BYTES
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.segments import Segment

TASKS_PER_WORKER = 4
MAX_TASK_SEGMENTS = 64
"""Maximum number of segments that a killed task loses, and of lock files that a task holds."""

DecodeTask = list[tuple[Segment, str]]
"""Segments with their keys; one worker decodes them, each video in one pass."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskPlan(Sequence[DecodeTask]):
    """Decode tasks of some segments; a task has objects only while somebody holds it.

    Attributes:
        table: The segments.
        keys: Their keys.
        order: Rows of the tasks, one task after the other.
        stops: Place in ``order`` behind each task, (T,).
        first: Task that is the first one.
    """

    table: SegmentTable
    keys: KeyColumns
    order: NDArray[np.int64]
    stops: NDArray[np.int64]
    first: int = 0

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.stops)

    @overload
    def __getitem__(self, number: int) -> DecodeTask: ...
    @overload
    def __getitem__(self, number: slice) -> list[DecodeTask]: ...
    def __getitem__(self, number: int | slice) -> DecodeTask | list[DecodeTask]:
        """Return a task, or some."""
        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        task = (range(len(self))[number] + self.first) % len(self)
        start = int(self.stops[task - 1]) if task else 0
        rows = self.order[start : self.stops[task]]
        return list(zip(self.table.take(rows), self.keys.take(rows), strict=True))

    def begin_with(self, first: int) -> Self:
        """Return the tasks in a circle, from another one on."""
        return replace(self, first=first)


def plan_tasks(
    table: SegmentTable, keys: KeyColumns, windows: WindowConfig, num_workers: int
) -> TaskPlan:
    """Group segments into tasks.

    The segments of a video stay together, in the order of time, so that it is read in one pass,
    unless a worker would have no work: then they are divided into parts of similar size. Short
    clips share a task, and so a shard of tens of MB, as long as every worker gets a few tasks.

    Args:
        table: Segments to decode.
        keys: Their keys.
        windows: How they are cut.
        num_workers: Workers that share the tasks.
    """
    videos = table.videos.renumber()
    order = np.lexsort((table.ends_s, table.starts_s, videos.numbers))
    fair_share = math.ceil(len(table) / num_workers)
    parts = _cut_evenly(videos.count(), min(fair_share, MAX_TASK_SEGMENTS))
    blocks_per_segment = windows.max_frames // windows.stride
    segment_bytes = blocks_per_segment * bytes_per_block(windows)
    max_segments = min(max(SHARD_BYTES // segment_bytes, 1), MAX_TASK_SEGMENTS)
    max_parts = math.ceil(len(parts) / (num_workers * TASKS_PER_WORKER))
    sizes = np.fromiter(_join_parts(parts, max_segments, max_parts), np.int64)
    return TaskPlan(table=table, keys=keys, order=order, stops=np.cumsum(sizes))


def _cut_evenly(counts: NDArray[np.int64], max_segments: int) -> list[int]:
    """Divide the segments of each video into parts of similar size; return the sizes in order."""
    if not len(counts):
        return []
    num_parts = -(-counts // max_segments)
    video = np.repeat(np.arange(len(counts)), num_parts)
    number = np.arange(len(video)) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    stops, starts = (
        np.rint(i * counts[video] / num_parts[video]).astype(np.int64) for i in (number + 1, number)
    )
    sizes: list[int] = (stops - starts).tolist()
    return sizes


def _join_parts(parts: Sequence[int], max_segments: int, max_parts: int) -> Iterator[int]:
    """Yield the number of segments of each task."""
    size, num_parts = 0, 0
    for part in parts:
        if num_parts and (size + part > max_segments or num_parts >= max_parts):
            yield size
            size, num_parts = 0, 0
        size += part
        num_parts += 1
    if num_parts:
        yield size


def divide_by_video(task: DecodeTask) -> list[DecodeTask]:
    """Divide a task into one per video."""
    by_video: dict[str, DecodeTask] = {}
    for segment, key in task:
        by_video.setdefault(segment.video, []).append((segment, key))
    return list(by_video.values())
