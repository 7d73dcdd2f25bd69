"""Plan of the tasks that fill the cache, and one such task: decode what is missing."""

import itertools
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.shards import CacheEntry, bytes_per_block
from ophnet_ray.data.cache.store import SHARD_BYTES, BlockCache, DecodeResult
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

    segments: Sequence[Segment]
    in_order: Sequence[CacheEntry]
    missing_videos: int
    decoded_videos: int

    @property
    def entries(self) -> dict[str, CacheEntry]:
        """The entries by segment id: a table of its own, made at each call."""
        ids = (segment.segment_id for segment in self.segments)
        return dict(zip(ids, self.in_order, strict=True))


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
        # rows of the same interval have the same key and share their blocks
        is_full = len(entries) == len(keys)
        rows = () if is_full else zip(segments, keys, strict=True)
        pending = {k: s for s, k in rows if k not in entries}
        tasks = plan_tasks([(s, k) for k, s in pending.items()], cache, num_workers)
    if tasks:
        delete_abandoned(cache.folder, cache.folder / CATALOG)
    # runs that start simultaneously begin with different tasks and do not wait for each other
    first = secrets.randbelow(max(len(tasks), 1))
    tasks = tasks[first:] + tasks[:first]
    left = Counter(segment.video for segment in pending.values())
    total, num_blocks = len(left), 0
    decoded: set[str] = set()
    for done in decode_all(cache, tasks) if tasks else ():
        entries |= {entry.key: entry for entry in done.entries}
        for entry in done.entries:
            video = pending[entry.key].video
            left[video] -= 1
            if left[video] <= 0:
                del left[video]
        decoded |= done.videos
        num_blocks += done.num_blocks
        if on_progress:
            on_progress(FillProgress(total - len(left), total, num_blocks))
    if tasks:
        cache.update_catalog()
    cache.mark_used(entries.values())
    # by their places: a table by the ids of millions of rows would take as long as the rows
    return FillResult(segments, [entries[key] for key in keys], total, len(decoded))


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
