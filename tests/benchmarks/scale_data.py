"""Synthetic tables and cache entries of any number of times OphNet: no video, no pixel."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.shards import CHECKSUM_BYTES, CacheEntry

NUM_SEGMENTS, NUM_VIDEOS, NUM_PHASES = 14_674, 743, 52
"""Size of OphNet; each video is a case."""
SEGMENTS_PER_SHARD = 26
BLOCK_BYTES = WindowConfig().image_size ** 2 * 3
LAYOUTS = ((4, 4), (4, 4), (4, 4), (4, 4), (8,), (7,), (5,), (3,), (1,), (4, 4, 2))
"""Blocks of the snippets of a segment, as often as such segments are."""


def write_table(folder: Path, scale: int) -> Path:
    """Write an annotation CSV of ``scale`` times OphNet, unless it exists."""
    path = folder / f"ophnet-{scale}.csv"
    if path.exists():
        return path
    with path.with_suffix(".new").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "start", "end", "phase_id"])
        writer.writerows(_rows(scale))
    return path.with_suffix(".new").rename(path)


def _rows(scale: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield the rows video by video: phases mostly in ascending order, 11 s in the median."""
    rng = np.random.default_rng(0)
    num_segments, num_videos = NUM_SEGMENTS * scale, NUM_VIDEOS * scale
    seconds = np.maximum(rng.lognormal(np.log(11), 1.0, num_segments), 0.2).round(2)
    first = np.linspace(0, num_segments, num_videos + 1).astype(int)
    for video, (start, stop) in enumerate(itertools.pairwise(first.tolist())):
        phases = np.sort(rng.integers(0, NUM_PHASES, stop - start))
        ends = np.cumsum(seconds[start:stop])
        for phase, end, length in zip(phases, ends, seconds[start:stop], strict=True):
            yield f"case_{video:06d}", f"{end - length:.2f}", f"{end:.2f}", int(phase)


def make_entries(num_segments: int, folder: str) -> CacheEntries:
    """Return an entry for each segment, as if a cache in a folder held it, in their order."""
    return CacheEntries.of_entries(_make_entries(num_segments, folder))


def _make_entries(num_segments: int, folder: str) -> Iterator[CacheEntry]:
    rng = np.random.default_rng(1)
    layouts = rng.integers(0, len(LAYOUTS), num_segments)
    checksums = rng.bytes(num_segments * 10 * CHECKSUM_BYTES)
    offset, path = 0, ""
    for i, layout in enumerate(layouts.tolist()):
        if i % SEGMENTS_PER_SHARD == 0:
            path, offset = f"{folder}/{i // SEGMENTS_PER_SHARD:024x}.arrow", 584
        lengths = LAYOUTS[layout]
        first, num_bytes = i * 10 * CHECKSUM_BYTES, sum(lengths) * CHECKSUM_BYTES
        chosen = checksums[first : first + num_bytes]
        yield CacheEntry(f"{i:032x}", path, offset, lengths, checksums=chosen)
        offset += sum(lengths) * BLOCK_BYTES + 576
