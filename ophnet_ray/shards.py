"""The files of the cache: many decoded segments in one, each block at a known byte offset.

A *shard* is one Arrow IPC file with a row a block: the segment's key and the pixels, a fixed-size
binary of ``image_size * image_size * 3`` bytes, RGB, uncompressed, so that any Arrow reader opens
the file. Beside it stands a small JSON index: where each segment's blocks begin, and which segments
could not be read and why. Both are written to a temporary name and renamed, the index last: a shard
without an index does not exist for a reader, and one whose size is not the one its index names is
not used.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.atomic import open_atomically, write_atomically
from ophnet_ray.blocks import SegmentBlocks
from ophnet_ray.config import WindowConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache knows of one segment.

    ``run_lengths`` are the blocks of each run of consecutive frames; the blocks lie one after the
    other from byte ``offset`` of ``path``. A segment that cannot be read has a ``reason`` and no
    blocks. ``was_cut`` says that the annotation goes on past the end of the video.
    """

    key: str
    path: str = ""
    offset: int = 0
    run_lengths: tuple[int, ...] = ()
    reason: str = ""
    was_cut: bool = False


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
    entries: tuple[Entry, ...]


def write_shard(
    folder: Path, rows: Sequence[DecodedSegment], windows: WindowConfig
) -> tuple[Entry, ...]:
    """Write blocks and index; the same content gets the same name, whoever writes it.

    Raises:
        OSError: E.g. the disk is full; nothing of the shard can be found then.
    """
    keys = "".join(row.key for row in rows)
    shard = folder / f"{hashlib.blake2b(keys.encode(), digest_size=12).hexdigest()}.arrow"
    offset = _write_arrow(shard, rows, windows.image_size)
    entries = []
    for row in rows:
        b = row.blocks
        entries.append(Entry(row.key, str(shard), offset, b.run_lengths, b.reason, b.was_cut))
        offset += sum(block.nbytes for block in b.pixels)
    index = {
        "size_bytes": shard.stat().st_size,
        "windows": asdict(windows),
        "videos": sorted({row.video for row in rows}),
        "entries": [
            {**asdict(entry), "path": shard.name}
            for entry, row in zip(entries, rows, strict=True)
            if row.blocks.is_lasting
        ],
    }
    write_atomically(shard.with_suffix(".json"), json.dumps(index).encode())
    return tuple(entries)


def read_shard_index(path: Path) -> ShardIndex | None:
    """Read a JSON index; None, and a line in the log, when it or its shard is not whole."""
    shard = path.with_suffix(".arrow")
    try:
        index = json.loads(path.read_text())
        whole = shard.stat().st_size == index["size_bytes"]
    except FileNotFoundError:
        whole = False
    except ValueError as error:
        logger.warning("%s is damaged (%s); its segments are decoded anew", path, error)
        return None
    if not whole:
        logger.warning("%s is not whole; its segments are decoded anew", shard)
        return None
    entries = []
    for fields in index["entries"]:
        place = {"path": str(shard), "run_lengths": tuple(fields["run_lengths"])}
        entries.append(Entry(**{**fields, **place}))
    return ShardIndex(shard, index["windows"], tuple(index["videos"]), tuple(entries))


def read_blocks(entry: Entry, first: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
    descriptor = os.open(entry.path, os.O_RDONLY)
    try:
        block_bytes = out.nbytes // len(out)
        size_bytes = os.preadv(descriptor, [out.data], entry.offset + first * block_bytes)
    finally:
        os.close(descriptor)
    if size_bytes != out.nbytes:
        raise OSError(f"{entry.path} ends early; delete it and run again to decode it anew")
    return out


def _write_arrow(path: Path, rows: Sequence[DecodedSegment], image_size: int) -> int:
    """Write blocks as one Arrow record batch; return the byte offset of the first one."""
    blocks = [block for row in rows for block in row.blocks.pixels]
    keys = [row.key for row in rows for _ in row.blocks.pixels]
    pixels = b"".join(np.ascontiguousarray(block).data for block in blocks)
    column = pa.Array.from_buffers(
        pa.binary(image_size**2 * 3), len(blocks), [None, pa.py_buffer(pixels)]
    )
    batch = pa.record_batch({"key": pa.array(keys, pa.string()), "pixels": column})
    with open_atomically(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    if not blocks:
        return 0
    with pa.memory_map(str(path)) as stored:
        start = stored.read_buffer(1).address
        (_, data) = pa.ipc.open_file(stored).get_batch(0).column("pixels").buffers()
        return int(data.address - start)
