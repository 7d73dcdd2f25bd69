"""The files of the cache: many decoded segments per file, each block at a known byte offset.

A *shard* is an Arrow IPC file with one row per block and one record batch per segment. A row holds
the segment's key and the pixels: RGB, uncompressed, a fixed-size binary of ``image_size *
image_size * 3`` bytes. Any Arrow reader opens the file. A small JSON index beside it gives the byte
offset of each segment's blocks, and the reason for each segment that cannot be read, with the
versions of the codec's libraries: another codec tries again. Both are
written atomically, the index last: a reader ignores a shard that has no index or another size than
its index states.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.segments import RejectKind
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.data.video.container import CODEC_VERSIONS
from ophnet_ray.storage.files import open_atomically, write_atomically
from ophnet_ray.storage.records import dump_record, parse_record

CHECKSUM_BYTES = 4
UNRECORDED_KIND: RejectKind = "other"
"""Kind of the rejects in an index that an older version wrote."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One segment in the cache: the position of its blocks, or the reason why it has none.

    ``path`` is the shard on this machine; ``source`` is its URI when it is shared in a bucket. The
    blocks begin at byte ``offset``, one after the other; ``snippet_lengths`` is the number of
    blocks of each snippet. A segment that cannot be read has a ``reason`` with its ``kind``, and no
    blocks. ``is_truncated``: the annotation ends after the video. ``checksums``: CRC-32, 4 bytes
    per block; empty where an older version wrote the shard.
    """

    key: str
    path: str = ""
    offset: int = 0
    snippet_lengths: tuple[int, ...] = ()
    reason: str = ""
    kind: RejectKind | None = None
    is_truncated: bool = False
    source: str = ""
    checksums: bytes = b""


@dataclass(frozen=True, slots=True)
class DecodedSegment:
    """A segment to be written: its key, its video and its blocks."""

    key: str
    video: str
    blocks: SegmentBlocks


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Content of a shard's JSON index: window settings, videos and segments.

    ``codec``: versions of the codec's libraries that decoded, empty for an older version's index.
    """

    shard: Path
    windows: dict[str, Any]
    videos: tuple[str, ...]
    entries: tuple[CacheEntry, ...]
    codec: dict[str, str]

    @property
    def valid_entries(self) -> Iterator[CacheEntry]:
        """Entries that need not be decoded again.

        Rejects of another codec are not among them: this one may read the videos.
        """
        is_same_codec = self.codec == CODEC_VERSIONS
        return (entry for entry in self.entries if is_same_codec or not entry.reason)


def bytes_per_block(windows: WindowConfig) -> int:
    """Return the size of a block's pixels in a shard."""
    return windows.image_size**2 * 3


def write_shard(
    folder: Path, rows: Iterable[DecodedSegment], windows: WindowConfig
) -> tuple[CacheEntry, ...]:
    """Write blocks and index; the same segments in the same layout get the same name.

    Memory: one row, if ``rows`` is a generator.

    Raises:
        OSError: E.g. the disk is full; no reader finds the shard then.
    """
    written: list[CacheEntry] = []
    is_permanent: list[bool] = []
    videos: set[str] = set()

    def shard_name() -> str:
        # a shard of this name is never replaced by one of another layout: readers keep offsets
        # and a reject of another codec never by one of this codec: readers keep a bucket's indexes
        layout = json.dumps([[entry.key, entry.snippet_lengths] for entry in written])
        if any(entry.reason for entry in written):
            layout += json.dumps(CODEC_VERSIONS)
        return hashlib.blake2b(layout.encode(), digest_size=12).hexdigest() + ".arrow"

    pixel_type = pa.binary(bytes_per_block(windows))
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
                    checksums=b"".join(map(checksum_of, blocks.pixels)),
                )
            )
            is_permanent.append(blocks.is_permanent)
            videos.add(row.video)
    shard = folder / shard_name()
    offsets = _offsets_of_batches(shard)
    entries = tuple(
        replace(entry, path=str(shard), offset=next(offsets) if entry.snippet_lengths else 0)
        for entry in written
    )
    kept = [entry for entry, keep in zip(entries, is_permanent, strict=True) if keep]
    index = {
        "size_bytes": shard.stat().st_size,
        "windows": _windows_to_json(windows),
        "videos": sorted(videos),
        "entries": [_entry_to_json(entry) for entry in kept],
        # beside the entries: a reader of an older version refuses an entry with a key it lacks
        "codec": CODEC_VERSIONS,
        "reject_kinds": {entry.key: entry.kind for entry in kept if entry.kind is not None},
        "checksums": {entry.key: entry.checksums.hex() for entry in kept if entry.checksums},
    }
    write_atomically(shard.with_suffix(".json"), dump_record(index))
    return entries


def read_shard_index(path: Path) -> ShardIndex | None:
    """Read a JSON index; return None and log a warning if it or its shard is not whole."""
    shard = path.with_suffix(".arrow")
    try:
        return parse_shard_index(path.read_bytes(), shard, shard.stat().st_size)
    except OSError as error:
        logger.warning("%s cannot be used (%r); its segments are decoded again", path, error)
        return None


def parse_shard_index(
    text: bytes, shard: Path, size_bytes: int, source: str = ""
) -> ShardIndex | None:
    """Parse a JSON index; return None and log a warning if it or its shard is not whole.

    Args:
        text: Content of the index.
        shard: Path of the shard on this machine, present or to be fetched.
        size_bytes: Actual size of the shard.
        source: URI of the shard in a bucket.
    """
    try:
        index = parse_record(text)
        if size_bytes != index["size_bytes"]:
            logger.warning("%s is not whole; its segments are decoded again", source or shard)
            return None
        kinds, checksums = index.get("reject_kinds", {}), index.get("checksums", {})
        path = str(shard)
        entries = [
            _entry_from_json(
                fields,
                kinds.get(fields["key"]),
                bytes.fromhex(checksums.get(fields["key"], "")),
                path,
                source,
            )
            for fields in index["entries"]
        ]
        codec = dict(index.get("codec", {}))
        return ShardIndex(shard, index["windows"], tuple(index["videos"]), tuple(entries), codec)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s cannot be used (%r); its segments are decoded again", shard, error)
        return None


def _windows_to_json(windows: WindowConfig) -> dict[str, Any]:
    """Return the settings of windows; those of means as versions without other pictures did."""
    values = asdict(windows) | {"window_image": windows.stored_image}
    if windows.stored_image == "mean":
        del values["window_image"]
    return values


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
    fields: dict[str, Any], kind: RejectKind | None, checksums: bytes, path: str, source: str
) -> CacheEntry:
    """Return an entry; without checksums if they are not one per block.

    They would call sound blocks damaged, and shift those of all later segments of a manifest.
    """
    key, lengths = fields["key"], tuple(fields["run_lengths"])
    num_blocks = sum(lengths)
    if len(checksums) not in (0, num_blocks * CHECKSUM_BYTES):
        logger.warning(
            "%s: %d bytes of checksums for the %d blocks of %s; they are not compared",
            path,
            len(checksums),
            num_blocks,
            key,
        )
        checksums = b""
    return CacheEntry(
        key,
        path,
        fields["offset"],
        lengths,
        fields["reason"],
        (kind or UNRECORDED_KIND) if fields["reason"] else None,
        is_truncated=fields["was_cut"],
        source=source,
        checksums=checksums,
    )


def checksum_of(block: NDArray[np.uint8]) -> bytes:
    """Return the CRC-32 of a block's pixels."""
    return zlib.crc32(np.ascontiguousarray(block).data).to_bytes(CHECKSUM_BYTES, "little")


def _record_batch(row: DecodedSegment, schema: pa.Schema) -> pa.RecordBatch:
    blocks = row.blocks.pixels
    pixels = b"".join(np.ascontiguousarray(block).data for block in blocks)
    column = pa.Array.from_buffers(
        schema.field("pixels").type, len(blocks), [None, pa.py_buffer(pixels)]
    )
    return pa.record_batch([pa.array([row.key] * len(blocks)), column], schema=schema)


def _offsets_of_batches(path: Path) -> Iterator[int]:
    """Yield the byte offset of each record batch's pixels in the file."""
    with pa.memory_map(str(path)) as stored:
        start = stored.read_buffer(1).address
        reader = pa.ipc.open_file(stored)
        for i in range(reader.num_record_batches):
            (_, data) = reader.get_batch(i).column("pixels").buffers()
            yield int(data.address - start)
