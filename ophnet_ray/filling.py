"""Bring every segment into the cache, decoding only what is not there yet."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ophnet_ray.annotations import Segment
from ophnet_ray.cache import BlockCache, DecodedShard, Entry

SHARD_BYTES = 32_000_000
TASKS_PER_WORKER = 4

DecodeTask = list[tuple[Segment, str]]
"""Segments, with their keys, that one worker decodes into one shard."""


@dataclass(frozen=True, slots=True)
class FillProgress:
    """How far the filling is."""

    num_videos: int
    total_videos: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class FillResult:
    """The entry of every segment, by segment id, and what it took."""

    entries: Mapping[str, Entry]
    decoded_videos: int


DecodeAll = Callable[[BlockCache, list[DecodeTask]], Iterator[DecodedShard]]
"""Runs decode tasks in parallel, in any order."""


def fill_cache(
    cache: BlockCache,
    segments: Sequence[Segment],
    num_workers: int,
    decode_all: DecodeAll,
    on_progress: Callable[[FillProgress], None] | None = None,
) -> FillResult:
    """Decode the segments that the cache lacks.

    Args:
        cache: Where to.
        segments: Their video files exist.
        num_workers: Workers that ``decode_all`` has, to cut the work for.
        decode_all: On Ray or in threads.
        on_progress: Called after each task.
    """
    keys = cache.keys_of(segments)
    entries = cache.find(keys)
    pending = [(s, k) for s, k in zip(segments, keys, strict=True) if k not in entries]
    tasks = plan_tasks(pending, cache, num_workers)
    total = len({segment.video for segment, _ in pending})
    videos = blocks = 0
    for shard in decode_all(cache, tasks) if tasks else ():
        entries |= {entry.key: entry for entry in shard.entries}
        videos += shard.num_videos
        blocks += shard.num_blocks
        if on_progress:
            on_progress(FillProgress(videos, total, blocks))
    by_id = {s.segment_id: entries[key] for s, key in zip(segments, keys, strict=True)}
    return FillResult(by_id, videos)


def plan_tasks(pending: DecodeTask, cache: BlockCache, num_workers: int) -> list[DecodeTask]:
    """Group segments so that a video stays whole and a shard is not larger than tens of MB.

    Short clips share a shard, as long as every worker gets a few tasks.
    """
    by_video: dict[str, DecodeTask] = {}
    for segment, key in pending:
        by_video.setdefault(segment.video, []).append((segment, key))
    w = cache.windows
    segment_bytes = w.max_frames // w.stride * w.image_size**2 * 3
    most_segments = max(SHARD_BYTES // segment_bytes, 1)
    most_videos = math.ceil(len(by_video) / (num_workers * TASKS_PER_WORKER))
    tasks: list[DecodeTask] = []
    videos_in_last = 0
    for rows in by_video.values():
        full = not tasks or len(tasks[-1]) + len(rows) > most_segments
        if full or videos_in_last >= most_videos:
            tasks.append([])
            videos_in_last = 0
        tasks[-1] += rows
        videos_in_last += 1
    return tasks


def decode_in_threads(num_workers: int) -> DecodeAll:
    """Decode in this process: the codec and numpy release the interpreter."""

    def decode_all(cache: BlockCache, tasks: list[DecodeTask]) -> Iterator[DecodedShard]:
        with ThreadPoolExecutor(num_workers, thread_name_prefix="decode") as pool:
            yield from pool.map(lambda task: decode_task(cache, task), tasks)

    return decode_all


def decode_task(cache: BlockCache, task: DecodeTask) -> DecodedShard:
    """Decode one task's segments into one shard."""
    return cache.decode([segment for segment, _ in task], [key for _, key in task])
