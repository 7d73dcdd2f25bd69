"""Fill of the cache: decode tasks for what is missing, and one such task."""

import secrets
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.entries import NOWHERE, CacheEntries, EntryRows
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.cache.store import BlockCache, DecodeResult
from ophnet_ray.data.cache.task_plan import DecodeTask, plan_tasks
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.garbage import pause_collections
from ophnet_ray.storage.files import FileStatus
from ophnet_ray.storage.unfinished import delete_abandoned


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


DecodeAll = Callable[[BlockCache, Sequence[DecodeTask]], Iterator[DecodeResult]]
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
        tasks = plan_tasks(pending, pending_keys, cache.windows, num_workers)
        arrivals = _Arrivals(pending_keys, pending.videos)
    if tasks:
        delete_abandoned(cache.folder, cache.folder / CATALOG)
    # runs that start simultaneously begin with different tasks and do not wait for each other
    tasks = tasks.begin_with(secrets.randbelow(max(len(tasks), 1)))
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
    entries = entries.replace_rows(missing, arrivals.to_columns().take(numbers))
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

    def __init__(self, keys: KeyColumns, videos: TextColumn) -> None:
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
        chosen = np.full(len(self._order), NOWHERE)
        chosen[np.array(self._rows, dtype=np.int64)] = np.arange(len(self._rows))
        if (chosen == NOWHERE).any():
            raise KeyError("a decode task has left out a segment")
        return self._entries.to_columns().take(chosen)


def decode_in_threads(num_workers: int) -> DecodeAll:
    """Return a function that decodes in threads: the codec and numpy release the interpreter."""

    def decode_all(cache: BlockCache, tasks: Sequence[DecodeTask]) -> Iterator[DecodeResult]:
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
