"""The files of the cache: many decoded segments in one, each block at a known byte offset.

A *shard* is one Arrow IPC file with a row a block and a record batch a segment: the segment's key
and the pixels, a fixed-size binary of ``image_size * image_size * 3`` bytes, RGB, uncompressed, so
that any Arrow reader opens the file. Beside it stands a small JSON index: where each segment's
blocks begin, and which segments could not be read and why. Both are written to a temporary name and
renamed, the index last: a shard without an index does not exist for a reader, and one whose size is
not the one its index names is not used.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import RejectKind
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.storage.files import open_atomically, write_atomically
from ophnet_ray.storage.local_copies import fetch_once
from ophnet_ray.storage.paths import join, name_of, parent_of

FETCH_THREADS = 8
UNRECORDED_KIND: RejectKind = "other"
"""Kind of the rejects in an index that an older version wrote."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What the cache knows of one segment.

    ``snippet_lengths`` are the blocks of each snippet; the blocks lie one after the other from byte
    ``offset`` of ``path``. A segment that cannot be read has a ``reason`` and its ``kind``, and no
    blocks. ``is_truncated``: the annotation ends after the video. A shard that machines share in a
    bucket has its URI in ``source``: ``path`` is where this machine keeps it.
    """

    key: str
    path: str = ""
    offset: int = 0
    snippet_lengths: tuple[int, ...] = ()
    reason: str = ""
    kind: RejectKind | None = None
    is_truncated: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class DecodedSegment:
    """A row to be written: where it comes from, and what came out."""

    key: str
    video: str
    blocks: SegmentBlocks


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What a shard's JSON file tells: its windows' settings, its videos and its segments."""

    shard: Path
    windows: dict[str, Any]
    videos: tuple[str, ...]
    entries: tuple[CacheEntry, ...]


def write_shard(
    folder: Path, rows: Iterable[DecodedSegment], windows: WindowConfig
) -> tuple[CacheEntry, ...]:
    """Write blocks and index; the same segments in the same layout get the same name.

    Memory: one row, if ``rows`` makes them as it goes.

    Raises:
        OSError: E.g. the disk is full; nothing of the shard can be found then.
    """
    written: list[CacheEntry] = []
    lasting: list[bool] = []
    videos: set[str] = set()

    def shard_name() -> str:
        # the layout, too: a reader of another writer's shard must never find another one there
        layout = json.dumps([[entry.key, entry.snippet_lengths] for entry in written])
        return hashlib.blake2b(layout.encode(), digest_size=12).hexdigest() + ".arrow"

    pixel_type = pa.binary(windows.image_size**2 * 3)
    schema = pa.schema([("key", pa.string()), ("pixels", pixel_type)])
    with open_atomically(folder, shard_name) as file, pa.ipc.new_file(file, schema) as writer:
        for row in rows:
            blocks = row.blocks
            if blocks.pixels:
                writer.write_batch(_record_batch(row, schema))
            written.append(
                CacheEntry(
                    row.key,
                    snippet_lengths=blocks.snippet_lengths,
                    reason=blocks.reason,
                    kind=blocks.kind,
                    is_truncated=blocks.is_truncated,
                )
            )
            lasting.append(blocks.is_permanent)
            videos.add(row.video)
    shard = folder / shard_name()
    offsets = _offsets_of_batches(shard)
    entries = tuple(
        replace(entry, path=str(shard), offset=next(offsets) if entry.snippet_lengths else 0)
        for entry in written
    )
    kept = [entry for entry, is_permanent in zip(entries, lasting, strict=True) if is_permanent]
    index = {
        "size_bytes": shard.stat().st_size,
        "windows": asdict(windows),
        "videos": sorted(videos),
        "entries": [_entry_to_json(entry) for entry in kept],
        # beside the entries: a reader of an older version refuses an entry with a key it lacks
        "reject_kinds": {entry.key: entry.kind for entry in kept if entry.kind is not None},
    }
    write_atomically(shard.with_suffix(".json"), json.dumps(index).encode())
    return entries


def read_shard_index(path: Path) -> ShardIndex | None:
    """Read a JSON index; None, and a line in the log, when it or its shard is not whole."""
    shard = path.with_suffix(".arrow")
    try:
        return parse_shard_index(path.read_bytes(), shard, shard.stat().st_size)
    except OSError as error:
        logger.warning("%s cannot be used (%r); its segments are decoded anew", path, error)
        return None


def parse_shard_index(
    text: bytes, shard: Path, size_bytes: int, source: str = ""
) -> ShardIndex | None:
    """Understand a JSON index; None, and a line in the log, when it or its shard is not whole.

    Args:
        text: Content of the index.
        shard: Where the shard lies, or will lie, on this machine.
        size_bytes: What the shard is found to have.
        source: Its URI, when it lies in a bucket.
    """
    try:
        index = json.loads(text)
        if size_bytes != index["size_bytes"]:
            logger.warning("%s is not whole; its segments are decoded anew", source or shard)
            return None
        kinds = index.get("reject_kinds", {})
        entries = [
            _entry_from_json(fields, kinds.get(fields["key"]), shard, source)
            for fields in index["entries"]
        ]
        return ShardIndex(shard, index["windows"], tuple(index["videos"]), tuple(entries))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be used (%r); its segments are decoded anew", shard, error)
        return None


def _entry_to_json(entry: CacheEntry) -> dict[str, Any]:
    """Return the fields of an entry under the names that the files have always had."""
    return {
        "key": entry.key,
        "path": Path(entry.path).name,
        "offset": entry.offset,
        "run_lengths": entry.snippet_lengths,
        "reason": entry.reason,
        "was_cut": entry.is_truncated,
        "source": "",
    }


def _entry_from_json(
    fields: dict[str, Any], kind: RejectKind | None, shard: Path, source: str
) -> CacheEntry:
    return CacheEntry(
        fields["key"],
        str(shard),
        fields["offset"],
        tuple(fields["run_lengths"]),
        fields["reason"],
        (kind or UNRECORDED_KIND) if fields["reason"] else None,
        is_truncated=fields["was_cut"],
        source=source,
    )


def fetch_shards(entries: Iterable[CacheEntry], first: int = 0) -> None:
    """Fetch from the bucket the shards that this machine does not have yet.

    Processes of one machine that begin at different places share the work; ``read_blocks`` fetches
    what is still lacking.

    Args:
        entries: Those of which the shards are needed.
        first: Where to begin among them.

    Raises:
        OSError: One cannot be fetched, or written.
    """
    sources = {
        entry.path: entry.source for entry in entries if entry.source and entry.snippet_lengths
    }
    shards = sorted(sources)
    start = first % max(len(shards), 1)
    with ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch-shards") as pool:
        for _ in pool.map(
            lambda path: _fetch_shard(path, sources[path]), shards[start:] + shards[:start]
        ):
            pass


def _fetch_shard(path: str, source: str) -> None:
    shard = Path(path)
    fetch_once(source, shard)
    # so that `cache --list` and `--prune` know it on this machine
    parent, name = parent_of(source), name_of(source)
    fetch_once(join(parent, Path(name).with_suffix(".json").name), shard.with_suffix(".json"))


def read_blocks(entry: CacheEntry, first: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read blocks ``[first, first + len(out))`` of a segment by position.

    The file is opened for each read: a run may have more shards than a process may have open
    files, and opening costs a tenth of the read.

    Args:
        entry: The segment.
        first: First block, counted from the segment's own.
        out: uint8 (N, S, S, 3) in one piece of memory; becomes the blocks, RGB.

    Returns:
        ``out``.

    Raises:
        OSError: The shard is gone or shorter than its index said.
    """
    descriptor = _open_shard(entry)
    try:
        position = entry.offset + first * (out.nbytes // len(out))
        memory = out.reshape(-1).data
        while memory:
            # network storage may give less than it is asked for
            size_bytes = os.preadv(descriptor, [memory], position)
            if not size_bytes:
                raise OSError(f"{entry.path} ends early; delete it and run again to decode it anew")
            memory, position = memory[size_bytes:], position + size_bytes
    finally:
        os.close(descriptor)
    return out


def _open_shard(entry: CacheEntry) -> int:
    try:
        return os.open(entry.path, os.O_RDONLY)
    except FileNotFoundError:
        if not entry.source:
            raise
    _fetch_shard(entry.path, entry.source)
    return os.open(entry.path, os.O_RDONLY)


def _record_batch(row: DecodedSegment, schema: pa.Schema) -> pa.RecordBatch:
    blocks = row.blocks.pixels
    pixels = b"".join(np.ascontiguousarray(block).data for block in blocks)
    column = pa.Array.from_buffers(
        schema.field("pixels").type, len(blocks), [None, pa.py_buffer(pixels)]
    )
    return pa.record_batch([pa.array([row.key] * len(blocks)), column], schema=schema)


def _offsets_of_batches(path: Path) -> Iterator[int]:
    """Where the pixels of each record batch begin in the file."""
    with pa.memory_map(str(path)) as stored:
        start = stored.read_buffer(1).address
        reader = pa.ipc.open_file(stored)
        for i in range(reader.num_record_batches):
            (_, data) = reader.get_batch(i).column("pixels").buffers()
            yield int(data.address - start)
