"""Plan of the tasks that fill the cache, and one such task: decode what is missing."""

import itertools
import math
import secrets
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.entries import MISSING, CacheEntries, EntryRows
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.shards import CacheEntry, bytes_per_block
from ophnet_ray.data.cache.store import SHARD_BYTES, BlockCache, DecodeResult
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.words import Words
from ophnet_ray.garbage import pause_collections
from ophnet_ray.storage.files import FileStatus
from ophnet_ray.storage.unfinished import delete_abandoned

TASKS_PER_WORKER = 4
MAX_TASK_SEGMENTS = 64
"""Maximum number of segments that a killed task loses, and of lock files that a task holds."""

DecodeTask = list[tuple[Segment, str]]
"""Segments with their keys; one worker decodes them, each video in one pass."""


@dataclass(frozen=True, slots=True)
class FillProgress:
    """Videos and blocks decoded so far."""

    num_videos: int
    total_videos: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class FillResult:
    """The entry of every segment, in their order, and the number of videos it took.

    The cache lacked segments of ``missing_videos`` videos; this run decoded ``decoded_videos``.
    The two differ when another run decoded some simultaneously.
    """

    entries: CacheEntries
    missing_videos: int
    decoded_videos: int


DecodeAll = Callable[[BlockCache, list[DecodeTask]], Iterator[DecodeResult]]
"""A function that executes decode tasks in parallel and yields their results in any order."""


def fill_cache(
    cache: BlockCache,
    segments: Sequence[Segment],
    num_workers: int,
    decode_all: DecodeAll,
    on_progress: Callable[[FillProgress], None] | None = None,
    files: Mapping[str, FileStatus] | None = None,
) -> FillResult:
    """Decode the segments that the cache lacks, and mark all entries as used.

    Before anything is decoded, files that killed decoders have left unfinished are deleted.

    Args:
        cache: The store to fill.
        segments: Segments of existing video files.
        num_workers: Workers of ``decode_all``; the number of tasks follows from it.
        decode_all: Executes the tasks, on Ray or in threads.
        on_progress: Called after each task.
        files: State of the videos; those that it lacks are asked for.
    """
    with pause_collections():
        keys, entries = cache.look_up(segments, files)
        missing = entries.missing_rows
        # rows of the same interval have the same key and share their blocks
        first_rows, numbers = keys.take(missing).number()
        pending = as_table(segments).take(missing[first_rows])
        pending_keys = keys.take(missing[first_rows])
        tasks = plan_tasks(list(zip(pending, pending_keys, strict=True)), cache, num_workers)
        arrivals = _Arrivals(pending_keys, pending.videos)
    if tasks:
        delete_abandoned(cache.folder, cache.folder / CATALOG)
    # runs that start simultaneously begin with different tasks and do not wait for each other
    first = secrets.randbelow(max(len(tasks), 1))
    tasks = tasks[first:] + tasks[:first]
    decoded: set[str] = set()
    num_blocks = 0
    for done in decode_all(cache, tasks) if tasks else ():
        arrivals.take_in(done.entries)
        decoded |= done.videos
        num_blocks += done.num_blocks
        if on_progress:
            on_progress(FillProgress(arrivals.num_whole, arrivals.num_videos, num_blocks))
    if tasks:
        cache.update_catalog()
    entries = entries.put(missing, arrivals.to_columns().take(numbers))
    cache.mark_used(entries)
    return FillResult(entries, arrivals.num_videos, len(decoded))


class _Arrivals:
    """Entries that arrive from decode tasks, in any order.

    Args:
        keys: Distinct keys of the segments that are decoded.
        videos: The video of each.

    Attributes:
        num_videos: Number of distinct videos.
        num_whole: Number of those whose segments have all arrived.
    """

    def __init__(self, keys: KeyColumns, videos: Words) -> None:
        self._order = keys.order
        self._keys = keys.take(keys.order)
        self._videos = videos.numbers
        self._left = videos.count().tolist()
        self.num_videos, self.num_whole = len(videos.list_present()), 0
        self._rows, self._entries = array("q"), EntryRows()

    def take_in(self, entries: Sequence[CacheEntry]) -> None:
        """Add the entries of some of the keys."""
        for which, places in KeyJoin(KeyColumns.of_texts(e.key for e in entries)).match(self._keys):
            rows = self._order[places]
            self._rows.extend(rows.tolist())
            self._entries.extend([entries[i] for i in which.tolist()])
            for video in self._videos[rows].tolist():
                self._left[video] -= 1
                self.num_whole += self._left[video] == 0

    def to_columns(self) -> CacheEntries:
        """Return the entry of each key, in the order of the keys.

        Raises:
            KeyError: The entry of one has not arrived.
        """
        chosen = np.full(len(self._order), MISSING)
        chosen[np.array(self._rows, dtype=np.int64)] = np.arange(len(self._rows))
        if (chosen == MISSING).any():
            raise KeyError("a decode task has left out a segment")
        return self._entries.to_columns().take(chosen)


def plan_tasks(pending: DecodeTask, cache: BlockCache, num_workers: int) -> list[DecodeTask]:
    """Group segments into tasks.

    The segments of a video stay together, so that it is read in one pass, unless a worker would
    have no work: then they are divided. Short clips share a task, and so a shard of tens of MB, as
    long as every worker gets a few tasks.
    """
    fair_share = math.ceil(len(pending) / num_workers)
    parts = [
        part
        for rows in divide_by_video(pending)
        for part in _cut_evenly(rows, min(fair_share, MAX_TASK_SEGMENTS))
    ]
    blocks_per_segment = cache.windows.max_frames // cache.windows.stride
    segment_bytes = blocks_per_segment * bytes_per_block(cache.windows)
    max_segments = min(max(SHARD_BYTES // segment_bytes, 1), MAX_TASK_SEGMENTS)
    max_parts = math.ceil(len(parts) / (num_workers * TASKS_PER_WORKER))
    tasks: list[DecodeTask] = []
    parts_in_last = 0
    for part in parts:
        is_full = not tasks or len(tasks[-1]) + len(part) > max_segments
        if is_full or parts_in_last >= max_parts:
            tasks.append([])
            parts_in_last = 0
        tasks[-1] += part
        parts_in_last += 1
    return tasks


def divide_by_video(task: DecodeTask) -> list[DecodeTask]:
    """Divide a task into one per video."""
    by_video: dict[str, DecodeTask] = {}
    for segment, key in task:
        by_video.setdefault(segment.video, []).append((segment, key))
    return list(by_video.values())


def _cut_evenly(rows: DecodeTask, max_segments: int) -> Iterator[DecodeTask]:
    """Divide the segments of a video, in the order of time, into parts of similar size."""
    ordered = sorted(rows, key=lambda row: (row[0].start_s, row[0].end_s))
    num_parts = math.ceil(len(ordered) / max_segments)
    bounds = [round(i * len(ordered) / num_parts) for i in range(num_parts + 1)]
    for first, last in itertools.pairwise(bounds):
        yield ordered[first:last]


def decode_in_threads(num_workers: int) -> DecodeAll:
    """Return a function that decodes in threads: the codec and numpy release the interpreter."""

    def decode_all(cache: BlockCache, tasks: list[DecodeTask]) -> Iterator[DecodeResult]:
        with ThreadPoolExecutor(num_workers, thread_name_prefix="decode") as pool:
            yield from pool.map(lambda task: decode_task(cache, task), tasks)

    return decode_all


def decode_task(cache: BlockCache, task: DecodeTask) -> DecodeResult:
    """Decode one task's segments into the cache, sharing the work with other runs.

    Wait for the segments that another run is decoding; decode them here if that run is killed.
    """
    pending = {key: segment for segment, key in task}
    done = DecodeResult()
    while pending:
        videos: dict[str, list[str]] = {}
        for key, segment in pending.items():
            videos.setdefault(segment.video, []).append(key)
        with cache.claims.take_free(videos.values()) as free:
            done += DecodeResult(tuple(cache.find_new(pending).values()))
            missing = free - {entry.key for entry in done.entries}
            todo = [key for key in pending if key in missing]
            done += cache.decode([pending[key] for key in todo], todo)
        for entry in done.entries:
            pending.pop(entry.key, None)
        if pending:
            cache.claims.wait_for(next(iter(pending)))
    return done
