"""Content-addressed store of decoded segments: each video is decoded once."""

import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.catalog import Catalog
from ophnet_ray.data.cache.entries import NOWHERE, CacheEntries
from ophnet_ray.data.cache.journals import OtherRuns, RunJournals, other_runs_of
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.segment_keys import FORMAT_VERSION, KeySource, describe_sampling
from ophnet_ray.data.cache.shard_folder import ShardFolder
from ophnet_ray.data.cache.shards import (
    CacheEntry,
    DecodedSegment,
    ShardIndex,
    bytes_per_block,
    read_shard_index,
    write_shard,
)
from ophnet_ray.data.cache.video_ids import VideoIds
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.blocks import SegmentBlocks, decode_segments
from ophnet_ray.errors import UserError
from ophnet_ray.storage.contents import identify_ends
from ophnet_ray.storage.copy_folder import copies_in
from ophnet_ray.storage.files import FileStatus, find_status
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.locks import NamedLocks, shared
from ophnet_ray.storage.paths import absolute, is_remote, join

logger = logging.getLogger(__name__)

CACHE_VERSION = f"blocks-v{FORMAT_VERSION}"
"""Folder of the shards of this version in a cache, on disk and in a bucket."""
LOCK_FILE = ".in-use"
"""Lock file that runs share and a process that prunes holds alone."""
VIDEO_IDS = ".video-ids"
"""Memo of the content ids of videos."""
VIDEO_ENDS = ".video-ends"
"""Memo of the ids of videos that checkpoints keep, see ``duplicates.read_content_ids``."""
SHARD_BYTES = 32_000_000
"""Bytes of pixels after which a shard is full."""
LISTING_PAUSE = 20
"""Pause before a process lists the bucket again, in durations of its last listing: listings take at
most a twentieth of the time, however large the cache."""


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """The decoded segments, their videos and the number of their blocks."""

    entries: tuple[CacheEntry, ...] = ()
    videos: frozenset[str] = frozenset()
    num_blocks: int = 0

    def __add__(self, other: "DecodeResult") -> "DecodeResult":
        """Return the result of both."""
        return DecodeResult(
            self.entries + other.entries,
            self.videos | other.videos,
            self.num_blocks + other.num_blocks,
        )


class BlockCache:
    """A folder of shards.

    Args:
        folder: Path or bucket URI; created when it is missing. Shards of a bucket are read from
            and written to a folder of this machine, and shared through the bucket.
        windows: How segments are cut; part of every key.
        local_dir: Parent of this machine's folder; see ``storage.local_copies``.
        max_copy_bytes: Bytes of a bucket's shards that this machine keeps; None for all.

    Raises:
        UserError: The folder cannot be created or written.
    """

    def __init__(
        self,
        folder: str | Path,
        windows: WindowConfig,
        local_dir: str | None = None,
        max_copy_bytes: int | None = None,
    ) -> None:
        self.location, self.windows = absolute(folder), windows
        self._max_copy_bytes = max_copy_bytes
        is_shared = is_remote(self.location)
        self.folder = (
            local_folder(self.location, local_dir) if is_shared else Path(self.location)
        ) / CACHE_VERSION
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                # the clock of the machine that holds the folder
                self._opened_ns = os.fstat(probe.fileno()).st_mtime_ns
        except OSError as error:
            raise UserError(f"--cache_dir {folder} cannot be written: {error.strerror}") from error
        # a shared folder is no place for what one machine fetches
        self._spool_dir = str(self.folder) if is_shared else local_dir
        self.claims = NamedLocks(self.folder / "claims")
        self._journals = RunJournals(self.folder / "journals", self.claims)
        self._journals.remove_old()
        self._video_ends = VideoIds(self.folder / VIDEO_ENDS, identify_ends)
        self._keys = KeySource(
            VideoIds(self.folder / VIDEO_IDS, ends=self._video_ends), describe_sampling(windows)
        )
        self._bucket = (
            CacheBucket(join(self.location, CACHE_VERSION), self.folder) if is_shared else None
        )
        self._catalog = Catalog(self._bucket or ShardFolder(self.folder))
        if self._bucket is not None:
            self._opened_ns = self._bucket.now_ns()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the local folder after unpickling, possibly on another node."""
        self.__dict__ |= state
        self.folder.mkdir(parents=True, exist_ok=True)

    def keys_of(
        self, segments: Sequence[Segment], files: Mapping[str, FileStatus] | None = None
    ) -> KeyColumns:
        """Return the key of each segment; it changes with the content, the interval, the sampling.

        Equal content has equal keys wherever the video lies; see ``identify_content``. A video that
        cannot be read now is known by its path. Every video file must exist.

        Args:
            segments: Segments.
            files: State of the videos; those that it lacks are asked for.
        """
        return self._keys.find_keys(as_table(segments), files)

    def identify_ends(
        self, videos: Iterable[str], files: Mapping[str, FileStatus] | None = None
    ) -> dict[str, str]:
        """Return ``duplicates.read_content_ids`` of videos; an unchanged one is read only once."""
        return self._video_ends.identify(find_status(videos, files))

    def look_up(
        self, segments: Sequence[Segment], files: Mapping[str, FileStatus] | None = None
    ) -> tuple[KeyColumns, CacheEntries]:
        """Return the key of each segment, and its entry if the cache holds one.

        Entries of earlier versions, which knew a video by path, size and time, are among them. A
        video is looked for under each path that its content is known to have had.

        Args:
            segments: Segments.
            files: State of the videos; those that it lacks are asked for.
        """
        keys = self.keys_of(segments, files)
        entries = self._catalog.find(keys)
        missing = entries.missing_rows
        if not len(missing):
            return keys, entries
        pending = as_table(segments).take(missing)
        rows, old_keys = self._keys.find_keys_by_path(pending, files)
        found = self.find(keys.take(missing).join(old_keys))
        chosen = np.full(len(keys), NOWHERE)
        by_path = np.flatnonzero(found.is_there[len(missing) :])
        chosen[missing[rows[by_path]]] = len(missing) + by_path
        by_content = np.flatnonzero(found.is_there[: len(missing)])
        chosen[missing[by_content]] = by_content
        here = np.flatnonzero(chosen != NOWHERE)
        return keys, entries.replace_rows(here, found.take(chosen[here]))

    def find(self, keys: KeyColumns) -> CacheEntries:
        """Return the entry of each key that the cache holds, in the order of the keys.

        See ``Catalog.find`` for the time. If the cache lacks some of the keys, it is listed once,
        and the files of its catalog are read.
        """
        found = self._catalog.find(keys)
        missing = found.missing_rows
        if not len(missing):
            return found
        rest = self._catalog.read_rest(keys.take(missing))
        here = np.flatnonzero(rest.is_there)
        return found.replace_rows(missing[here], rest.take(here))

    def update_catalog(self) -> None:
        """Add what was written since to the catalog, for the next run; a failure is a warning."""
        self._catalog.update()

    def find_new(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """Return the entries that other runs have written since this object was created.

        The cost depends on what is new, not on the size of the cache. In a bucket, shards of other
        machines are found some seconds late.
        """
        others = other_runs_of(self._journals.name)
        with others.lock:
            for index in self._read_new_indexes(others):
                others.entries |= {entry.key: entry for entry in index.valid_entries}
            return {key: others.entries[key] for key in keys if key in others.entries}

    def _read_new_indexes(self, others: OtherRuns) -> Iterator[ShardIndex]:
        for name in self._journals.read_new(others.positions):
            index = read_shard_index(self.folder / name)
            if index is not None and self._bucket is not None:
                index = self._bucket.shared(index)
            if index is not None:
                yield index
        if self._bucket is not None and time.monotonic() >= others.next_listing_s:
            started_s = time.monotonic()
            # an index appears a moment after its time stamp
            yield from self._bucket.read_indexes(self._opened_ns - 60 * 10**9, others.listed)
            took_s = time.monotonic() - started_s
            others.next_listing_s = started_s + LISTING_PAUSE * took_s

    def decode(self, segments: Sequence[Segment], keys: Sequence[str]) -> DecodeResult:
        """Decode segments, each video in one pass, and write them as shards.

        Memory does not depend on the number of segments or the length of the videos; see
        ``decode_segments``.

        Raises:
            UserError: The shards cannot be written.
            StorageError: A video cannot be read now; the other ones are in the cache.
        """
        failures: dict[str, str] = {}
        rows = self._decode_rows(segments, keys, failures)
        decoded = DecodeResult()
        for first in rows:
            decoded += self._write(first, rows)
        for video, reason in failures.items():
            raise StorageError(f"{video} {reason}; the same command resumes once it can be read")
        return decoded

    def reject(
        self, keys: Sequence[str], video: str, reason: str, *, is_permanent: bool
    ) -> DecodeResult:
        """Write segments of a video as unreadable, for a caller whose decoder crashes on them.

        Raises:
            UserError: The shard cannot be written.
        """
        blocks = SegmentBlocks(reason=reason, kind="unreadable", is_permanent=is_permanent)
        rows = iter([DecodedSegment(key, video, blocks) for key in keys])
        return self._write(next(rows), rows)

    def _decode_rows(
        self, segments: Sequence[Segment], keys: Sequence[str], failures: dict[str, str]
    ) -> Iterator[DecodedSegment]:
        """Yield the segments; those that may be readable the next time go to ``failures``."""
        for video in dict.fromkeys(segment.video for segment in segments):
            chosen = [(s, k) for s, k in zip(segments, keys, strict=True) if s.video == video]
            try:
                rows = [segment for segment, _ in chosen]
                for index, blocks in decode_segments(video, rows, self.windows, self._spool_dir):
                    if blocks.is_permanent:
                        yield DecodedSegment(chosen[index][1], video, blocks)
                    else:
                        failures[video] = blocks.reason
            except Exception as error:
                error.add_note(f"video {video}")
                raise

    def _write(self, first: DecodedSegment, rows: Iterator[DecodedSegment]) -> DecodeResult:
        """Write one shard: the first row, then rows of the iterator until the shard is full."""
        videos: set[str] = set()
        num_blocks = 0

        def fill() -> Iterator[DecodedSegment]:
            nonlocal num_blocks
            for row in itertools.chain([first], rows):
                videos.add(row.video)
                num_blocks += len(row.blocks.pixels)
                yield row
                if num_blocks * bytes_per_block(self.windows) >= SHARD_BYTES:
                    return

        try:
            entries = write_shard(self.folder, fill(), self.windows)
            shard = Path(entries[0].path)
            source = self._bucket.upload(shard) if self._bucket is not None else ""
            self._make_room(shard)
            self._journals.append(shard.with_suffix(".json").name)
        except OSError as error:
            raise UserError(
                f"the cache {self.folder} cannot be written: {error.strerror or error}; "
                f"free some space or choose another --{'local_' if self._bucket else ''}cache_dir"
            ) from error
        entries = tuple(replace(entry, source=source) for entry in entries)
        return DecodeResult(entries, frozenset(videos), num_blocks)

    def _make_room(self, shard: Path) -> None:
        """Keep no more copies of a bucket's shards here than it should, with the new shard."""
        if self._bucket is not None:
            copies = copies_in(self.folder)
            copies.max_bytes = self._max_copy_bytes
            copies.add_written([shard, shard.with_suffix(".json")], self._bucket.uri)

    def mark_used(self, entries: CacheEntries) -> None:
        """Set the time of the shards to now: it is the time of their last use."""
        numbers = np.unique(entries.shards[entries.is_there])
        places = [entries.places[number] for number in numbers.tolist()]
        if self._bucket is not None:
            sources = (source for _, source in places if source)
            self._bucket.mark_used(sources, self._opened_ns)
        for path, _ in places:
            try:
                os.utime(path)
            except FileNotFoundError:
                continue  # in the bucket alone
            except PermissionError as error:
                logger.warning("%s belongs to another user, who may prune it: %s", path, error)

    @contextmanager
    def in_use(self, tell: Callable[[str], None] = logger.warning) -> Iterator[None]:
        """Protect the cache from pruning; the lock ends with the process, even a killed one.

        Args:
            tell: Receives a line that names the process for which this one waits.
        """
        with ExitStack() as held:
            try:
                held.enter_context(shared(self.folder / LOCK_FILE, tell=tell))
            except OSError as error:
                logger.warning("%s has no locks (%s): do not prune it now", self.folder, error)
            yield
