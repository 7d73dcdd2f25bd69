"""Decoded segments on disk, addressed by content.

A *shard* is one Arrow IPC file with a row a block: the segment's key and the pixels, a fixed-size
binary of ``image_size * image_size * 3`` bytes, RGB, uncompressed, so that a block lies at a known
byte offset and any Arrow reader opens the file. Beside it stands a small JSON index: where each
segment's blocks begin, and which segments could not be read and why. Both are written to a
temporary name and renamed, the index last: a shard without an index does not exist for a reader,
and a shard whose size is not the one its index names is not used.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.annotations import Segment
from ophnet_ray.atomic import write_atomically
from ophnet_ray.blocks import RESIZE_FILTER, SegmentBlocks, decode_segments
from ophnet_ray.config import WindowConfig
from ophnet_ray.errors import UserError
from ophnet_ray.windows import run_frames

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


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
class DecodedShard:
    """What one decode task did."""

    entries: tuple[Entry, ...]
    num_videos: int
    num_blocks: int


class BlockCache:
    """A folder of shards.

    Args:
        folder: Made when it is missing.
        windows: How segments are cut; part of every key.

    Raises:
        UserError: The folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, windows: WindowConfig) -> None:
        self.folder = Path(folder).absolute() / f"blocks-v{FORMAT_VERSION}"
        self.windows = windows
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(f"--cache_dir {folder} cannot be written: {error.strerror}") from error

    def keys_of(self, segments: Sequence[Segment]) -> list[str]:
        """The key of each segment; it changes with the file, the interval and the sampling.

        Every video file must exist.
        """
        w = self.windows
        sampling = [w.stride, w.max_frames, w.coverage, run_frames(w), w.image_size, RESIZE_FILTER]
        identities: dict[str, list[Any]] = {}
        keys = []
        for segment in segments:
            if segment.video not in identities:
                status = Path(segment.video).stat()
                identities[segment.video] = [segment.video, status.st_size, status.st_mtime_ns]
            text = json.dumps(
                [
                    FORMAT_VERSION,
                    identities[segment.video],
                    segment.start_s,
                    segment.end_s,
                    sampling,
                ]
            )
            keys.append(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
        return keys

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries that are there, by key; shards with a wrong size are passed over."""
        wanted = set(keys)
        found: dict[str, Entry] = {}
        for index_path in self.folder.glob("*.json"):
            try:
                index = json.loads(index_path.read_text())
            except ValueError as error:
                logger.warning(
                    "%s is damaged (%s); its segments are decoded anew", index_path, error
                )
                continue
            shard = index_path.with_suffix(".arrow")
            if not shard.is_file() or shard.stat().st_size != index["size_bytes"]:
                continue
            for fields in index["entries"]:
                if fields["key"] in wanted:
                    fields["run_lengths"] = tuple(fields["run_lengths"])
                    found[fields["key"]] = Entry(**{**fields, "path": str(shard)})
        return found

    def decode(self, segments: Sequence[Segment], keys: Sequence[str]) -> DecodedShard:
        """Decode segments, each of their videos in one pass, and write them as one shard.

        Memory: the blocks of these segments and one frame at full size.
        """
        rows: list[tuple[str, SegmentBlocks]] = []
        videos = list(dict.fromkeys(segment.video for segment in segments))
        for video in videos:
            chosen = [(s, k) for s, k in zip(segments, keys, strict=True) if s.video == video]
            decoded = decode_segments(video, [s for s, _ in chosen], self.windows)
            rows += zip([key for _, key in chosen], decoded, strict=True)
        entries = self._write_shard(rows)
        return DecodedShard(
            entries,
            num_videos=len(videos),
            num_blocks=sum(len(blocks.pixels) for _, blocks in rows),
        )

    def _write_shard(self, rows: Sequence[tuple[str, SegmentBlocks]]) -> tuple[Entry, ...]:
        """Write blocks and index; the same content gets the same name, whoever writes it."""
        name = hashlib.blake2b("".join(key for key, _ in rows).encode(), digest_size=12).hexdigest()
        shard = self.folder / f"{name}.arrow"
        try:
            offset = _write_arrow(shard, rows, self.windows.image_size)
            entries = []
            for key, blocks in rows:
                entries.append(
                    Entry(
                        key, str(shard), offset, blocks.run_lengths, blocks.reason, blocks.was_cut
                    )
                )
                offset += sum(block.nbytes for block in blocks.pixels)
            index = {
                "size_bytes": shard.stat().st_size,
                "windows": asdict(self.windows),
                "entries": [
                    {**asdict(entry), "path": shard.name}
                    for entry, (_, blocks) in zip(entries, rows, strict=True)
                    if blocks.is_lasting
                ],
            }
            write_atomically(shard.with_suffix(".json"), json.dumps(index).encode())
        except OSError as error:
            raise UserError(
                f"the cache {self.folder} cannot be written: {error.strerror or error}; "
                "free some space or choose another --cache_dir"
            ) from error
        return tuple(entries)


def read_blocks(entry: Entry, first: int, count: int, image_size: int) -> NDArray[np.uint8]:
    """Read blocks ``[first, first + count)`` of a segment by position.

    The file is opened for each read: a run may have more shards than a process may have open
    files, and opening costs a tenth of the read.

    Returns:
        uint8 RGB (count, H, W, 3).

    Raises:
        OSError: The shard is gone or shorter than its index said.
    """
    block_bytes = image_size * image_size * 3
    size = count * block_bytes
    descriptor = os.open(entry.path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, size, entry.offset + first * block_bytes)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise OSError(f"{entry.path} ends early; delete it and run again to decode it anew")
    return np.frombuffer(data, dtype=np.uint8).reshape(count, image_size, image_size, 3)


def _write_arrow(path: Path, rows: Sequence[tuple[str, SegmentBlocks]], image_size: int) -> int:
    """Write blocks as one Arrow record batch; return the byte offset of the first one."""
    blocks = [block for _, segment in rows for block in segment.pixels]
    keys = [key for key, segment in rows for _ in segment.pixels]
    pixels = b"".join(np.ascontiguousarray(block).tobytes() for block in blocks)
    column = pa.Array.from_buffers(
        pa.binary(image_size**2 * 3), len(blocks), [None, pa.py_buffer(pixels)]
    )
    batch = pa.record_batch({"key": pa.array(keys, pa.string()), "pixels": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    write_atomically(path, data)
    if not blocks:
        return 0
    stored = pa.ipc.open_file(data).get_batch(0).column("pixels")
    return int(stored.buffers()[1].address - data.address)
