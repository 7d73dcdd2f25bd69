"""Whole epochs: a cache that is decoded once, against reading the videos in every epoch."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.manifest import build_manifest
from ophnet_ray.data.samplers import TrainingSampler
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.data.segments import Segment
from tests.benchmarks.footage import NUM_CLIPS, draw_clips
from tests.benchmarks.measure import interleave, median_cpu_s
from tests.benchmarks.rivals import SeedDataset, TunedDataset, run_epochs
from tests.benchmarks.table import Figure

HEAD = WindowConfig(coverage="head")  # like the seed, which takes the first 64 frames
WINDOW_SIZES = (8, 16, 24, 32, 40)


def train_without_a_network(clips: Sequence[Path], num_epochs: int, num_trials: int) -> int:
    """Fill an empty cache, then read all epochs of all trials; each trial has its window size."""
    folder = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    segments = [
        Segment(clip.stem, clip.stem, str(clip), 0.0, float("inf"), "a", "train") for clip in clips
    ]
    batches = 0
    try:
        for trial in range(num_trials):
            size = HEAD.window_size if num_trials == 1 else WINDOW_SIZES[trial]
            windows = WindowConfig(coverage="head", window_size=size)
            filled = fill_cache(BlockCache(folder, windows), segments, 2, decode_in_threads(2))
            manifest, _ = build_manifest(segments, filled.entries, ["a"], windows)
            rows = SegmentColumns.of_items(manifest.items)
            sampler = TrainingSampler(
                rows.ids,
                rows.layouts,
                size // windows.stride,
                batch_size=8,
                seed=trial,
            )
            loader = WindowLoader(rows, sampler, windows.image_size)
            for epoch in range(num_epochs):
                sampler.set_epoch(epoch)
                batches += sum(1 for _ in loader)
    finally:
        shutil.rmtree(folder)
    return batches


def compare_epochs(folder: Path) -> list[Figure]:
    """Compare CPU time with the rivals; theirs is extrapolated from one epoch and from two."""
    figures = []
    for size in ("720p", "1080p"):
        clips = draw_clips(folder, size)
        train_without_a_network(clips[:1], 1, 1)  # load what our forks need; the rivals have theirs
        works: dict[str, Callable[[], Any]] = {
            "seed": lambda clips=clips: run_epochs(SeedDataset(clips), 1),
            "seed twice": lambda clips=clips: run_epochs(SeedDataset(clips), 2),
            "tuned": lambda clips=clips: run_epochs(TunedDataset(clips), 1),
            "tuned twice": lambda clips=clips: run_epochs(TunedDataset(clips), 2),
            "1": lambda clips=clips: train_without_a_network(clips, 1, 1),
            "10": lambda clips=clips: train_without_a_network(clips, 10, 1),
            "50": lambda clips=clips: train_without_a_network(clips, 10, 5),
        }
        costs = {name: median_cpu_s(runs) for name, runs in interleave(works).items()}
        for name, epochs, trials, target in (
            ("one epoch", 1, 1, ">= 2"),
            ("ten epochs", 10, 1, ">= 20"),
            ("five trials of ten epochs", 10, 5, ">= 100"),
        ):
            ours = costs[str(epochs * trials)]
            # the later epochs of a trial are cheaper than its first one
            seed, tuned = (
                trials * (costs[rival] + (epochs - 1) * (costs[f"{rival} twice"] - costs[rival]))
                for rival in ("seed", "tuned")
            )
            note = f"{seed:.1f}, tuned {tuned:.1f}, ours {ours:.2f} CPU-s, {NUM_CLIPS} clips"
            figures += [
                Figure(f"{size}, {name}: the seed's way / ours", seed / ours, note, target),
                Figure(f"{size}, {name}: tuned, no cache / ours", tuned / ours),
            ]
        for rival in ("seed", "tuned"):
            ratio = costs[f"{rival} twice"] / costs[rival]
            figures.append(Figure(f"{size}: two epochs / one, {rival}", ratio))
    return figures
