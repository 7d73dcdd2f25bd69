"""Decoded segments on disk, addressed by content: a video is decoded once."""

import hashlib
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.shards import (
    CacheEntry,
    DecodedSegment,
    ShardIndex,
    read_shard_index,
    write_shard,
)
from ophnet_ray.data.video.blocks import RESIZE_FILTER, decode_segments
from ophnet_ray.data.windows import snippet_frames
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import stat_files
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.locks import NamedLocks, shared
from ophnet_ray.storage.paths import absolute, is_remote, join, plain_uri

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
LOCK_FILE = ".in-use"
"""Held together by runs that use the cache, alone by a process that prunes it."""
SHARD_BYTES = 32_000_000
"""Pixels after which a shard is full."""


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What was decoded: the segments, from which videos, into how many blocks."""

    entries: tuple[CacheEntry, ...] = ()
    videos: frozenset[str] = frozenset()
    num_blocks: int = 0

    def __add__(self, other: "DecodeResult") -> "DecodeResult":
        """What both have decoded."""
        return DecodeResult(
            self.entries + other.entries,
            self.videos | other.videos,
            self.num_blocks + other.num_blocks,
        )


def sampling_of(windows: WindowConfig) -> tuple[int | str, ...]:
    """What decides which blocks are decoded: settings that agree in it share them."""
    w = windows
    return w.stride, w.max_frames, w.coverage, snippet_frames(w), w.image_size, RESIZE_FILTER


class BlockCache:
    """A folder of shards.

    Args:
        folder: Made when it is missing. Of a bucket, this machine keeps what it reads and writes in
            a folder of its own, and shares it through the bucket.
        windows: How segments are cut; part of every key.
        local_dir: Where that folder of its own is made; see ``local_tier``.

    Raises:
        UserError: The folder cannot be made or written.
    """

    def __init__(
        self, folder: str | Path, windows: WindowConfig, local_dir: str | None = None
    ) -> None:
        self.location, self.windows = absolute(folder), windows
        version = f"blocks-v{FORMAT_VERSION}"
        is_shared = is_remote(self.location)
        self.folder = (
            local_folder(self.location, local_dir) if is_shared else Path(self.location)
        ) / version
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                # by the clock of the machine that holds the folder
                self._opened_ns = os.fstat(probe.fileno()).st_mtime_ns
        except OSError as error:
            raise UserError(f"--cache_dir {folder} cannot be written: {error.strerror}") from error
        self.claims = NamedLocks(self.folder / "claims")
        self._bucket = CacheBucket(join(self.location, version), self.folder) if is_shared else None
        if self._bucket is not None:
            self._opened_ns = self._bucket.now_ns()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the local folder after unpickling, possibly on another node."""
        self.__dict__ |= state
        self.folder.mkdir(parents=True, exist_ok=True)

    def keys_of(self, segments: Sequence[Segment]) -> list[str]:
        """The key of each segment; it changes with the file, the interval and the sampling.

        Every video file must exist.
        """
        sampling = list(sampling_of(self.windows))
        files = stat_files({segment.video for segment in segments})
        keys = []
        for segment in segments:
            file = files[segment.video]
            # the same object of a bucket, by whatever endpoint it is reached
            name = plain_uri(segment.video) if is_remote(segment.video) else segment.video
            identity = [name, file.size_bytes, file.mtime_ns]
            text = json.dumps([FORMAT_VERSION, identity, segment.start_s, segment.end_s, sampling])
            keys.append(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
        return keys

    def find(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """The entries that are there, by key."""
        return self._find(keys, written_since_ns=0)

    def find_new(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """Those that were written, by whatever run, since this object was made, or just before."""
        # an index appears a moment after the time that it bears
        return self._find(keys, written_since_ns=self._opened_ns - 60 * 10**9)

    def _find(self, keys: Iterable[str], written_since_ns: int) -> dict[str, CacheEntry]:
        wanted = set(keys)
        found: dict[str, CacheEntry] = {}
        for index in self._read_indexes(written_since_ns):
            found |= {entry.key: entry for entry in index.entries if entry.key in wanted}
        return found

    def _read_indexes(self, written_since_ns: int) -> Iterator[ShardIndex]:
        if self._bucket is not None:
            yield from self._bucket.read_indexes(written_since_ns)
            return
        with os.scandir(self.folder) as files:
            names = [
                (file.name, file.stat().st_mtime_ns)
                for file in files
                if file.name.endswith(".json") and not file.name.startswith(".")
            ]
        for name, written_ns in names:
            if written_ns < written_since_ns:
                continue
            path = self.folder / name
            # a task looks at what others have written: each index once a process
            index = _remembered(path, written_ns) if written_since_ns else read_shard_index(path)
            if index is not None:
                yield index

    def decode(self, segments: Sequence[Segment], keys: Sequence[str]) -> DecodeResult:
        """Decode segments, each of their videos in one pass, and write them as shards.

        Memory: see ``decode_segments``; neither the number of segments nor the length of the videos
        matters.

        Raises:
            UserError: The shards cannot be written.
        """
        rows = self._decode_rows(segments, keys)
        decoded = DecodeResult()
        for first in rows:
            decoded += self._write(first, rows)
        return decoded

    def _decode_rows(
        self, segments: Sequence[Segment], keys: Sequence[str]
    ) -> Iterator[DecodedSegment]:
        for video in dict.fromkeys(segment.video for segment in segments):
            chosen = [(s, k) for s, k in zip(segments, keys, strict=True) if s.video == video]
            for place, blocks in decode_segments(video, [s for s, _ in chosen], self.windows):
                yield DecodedSegment(chosen[place][1], video, blocks)

    def _write(self, first: DecodedSegment, rows: Iterator[DecodedSegment]) -> DecodeResult:
        """Write a shard of the first row and as many of the others as fill it."""
        videos: set[str] = set()
        num_blocks = 0

        def fill() -> Iterator[DecodedSegment]:
            nonlocal num_blocks
            for row in itertools.chain([first], rows):
                videos.add(row.video)
                num_blocks += len(row.blocks.pixels)
                yield row
                if num_blocks * self.windows.image_size**2 * 3 >= SHARD_BYTES:
                    return

        try:
            entries = write_shard(self.folder, fill(), self.windows)
        except OSError as error:
            raise UserError(
                f"the cache {self.folder} cannot be written: {error.strerror or error}; "
                f"free some space or choose another --{'local_' if self._bucket else ''}cache_dir"
            ) from error
        if self._bucket is not None:
            source = self._bucket.upload(Path(entries[0].path))
            entries = tuple(replace(entry, source=source) for entry in entries)
        return DecodeResult(entries, frozenset(videos), num_blocks)

    def mark_used(self, entries: Iterable[CacheEntry]) -> None:
        """Note on the shards that a run needs them today: a shard's own time tells its last use."""
        used = list(entries)
        if self._bucket is not None:
            sources = (entry.source for entry in used if entry.source)
            self._bucket.mark_used(sources, self._opened_ns)
        for path in {entry.path for entry in used}:
            try:
                os.utime(path)
            except FileNotFoundError:
                continue  # in the bucket, not on this machine
            except PermissionError as error:
                logger.warning("%s belongs to somebody else, who may prune it: %s", path, error)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the cache from being pruned; the lock goes with the process, however it ends."""
        with ExitStack() as held:
            try:
                held.enter_context(shared(self.folder / LOCK_FILE))
            except OSError as error:
                logger.warning("%s knows no locks (%s): do not prune it now", self.folder, error)
            yield


@lru_cache(maxsize=4096)
def _remembered(path: Path, _written_ns: int) -> ShardIndex | None:
    return read_shard_index(path)
