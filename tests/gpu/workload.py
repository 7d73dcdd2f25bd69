"""Inputs of the check, made here: windows of noise in a cache, and a video."""

from pathlib import Path

import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.blocks import SegmentBlocks
from tests.helpers.videos import write_video

PHASES = tuple("abcdefg")
DISTINCT_SEGMENTS = 64
FRAME_RATE = 25


def write_windows(folder: Path, image_size: int, num_segments: int, num_val: int = 0) -> Manifest:
    """Write the blocks of 64 segments of noise; the other segments share them.

    The first ``num_val`` ones are for validation, all others for training.
    """
    windows = WindowConfig(image_size=image_size)
    shape = (windows.blocks_per_window, image_size, image_size, 3)
    rng = np.random.default_rng(0)
    rows = [
        DecodedSegment(
            f"{i:032x}",
            "v",
            SegmentBlocks(tuple(rng.integers(0, 256, shape, dtype=np.uint8)), (shape[0],)),
        )
        for i in range(min(num_segments, DISTINCT_SEGMENTS))
    ]
    folder.mkdir(parents=True)
    entries = write_shard(folder, rows, windows)
    items = []
    for i in range(num_segments):
        label = i % len(PHASES)
        split = "val" if i < num_val else "train"
        segment = Segment(f"s{i}", f"c{i}", "v", 0.0, 1.0, PHASES[label], split)
        items.append(ManifestItem(segment, label, entries[i % len(entries)]))
    return Manifest(PHASES, windows, tuple(items))


def draw_video(path: Path, num_frames: int, height: int, width: int) -> Path:
    """Write an H.264 video of smooth shapes that move behind noise, unless it exists."""
    if path.is_file():
        return path
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 40 + phase) + np.cos(columns / 60 - phase) for phase in range(3)]
    still = (np.stack(waves, axis=2) * 40 + 120 + rng.normal(0, 4, (height, width, 3))).clip(0, 255)
    picture = still.astype(np.uint8)
    frames = (np.roll(picture, (2 * k, 3 * k), axis=(0, 1)) for k in range(num_frames))
    return write_video(path, frames, FRAME_RATE, gop=2 * FRAME_RATE, crf="23", preset="veryfast")
