"""Cost of a data set in bytes and CPU-hours on this machine; README.md has the formulas."""

from pathlib import Path

import torch

from ophnet_ray.config import WindowConfig
from tests.benchmarks.decoding import DRAWN_FRAMES, GOPS, SPREAD, TIMES, fill, warm_up
from tests.benchmarks.footage import (
    FRAME_RATE,
    Footage,
    draw_video,
    repeat_video,
    typical_segments,
)
from tests.benchmarks.measure import MIN_REPEATS, interleave, median_cpu_s
from tests.benchmarks.reading import local_rate
from tests.benchmarks.table import Figure

OPHNET_HOURS, OPHNET_SEGMENTS = 89, 14_674
H100_WINDOWS_PER_S = 500


def segment_bytes(windows: WindowConfig) -> int:
    """Return the bytes of a whole segment in the cache: blocks times pixels, uncompressed."""
    return windows.max_frames // windows.stride * windows.image_size**2 * 3


def describe_costs(folder: Path) -> list[Figure]:
    """Evaluate the cost model with figures of this machine."""
    size = segment_bytes(SPREAD)
    figures = [
        Figure("MB per segment", size / 1e6, "max_frames / stride x image_size^2 x 3"),
        Figure("GB of cache for OphNet", OPHNET_SEGMENTS * size / 1e9, "14,674 segments"),
        Figure("TB of cache for 1,000 x OphNet", OPHNET_SEGMENTS * size / 1e9),
    ]
    for name in ("720p", "1080p"):
        short = draw_video(folder / f"drawn_{name}_gop50.mp4", name, GOPS[0], DRAWN_FRAMES)
        long = repeat_video(short.with_stem(f"{short.stem}_long"), short, TIMES)
        footage = Footage(name, long, DRAWN_FRAMES * TIMES)
        segments = typical_segments(footage)
        warm_up(footage)
        costs = interleave({"fill": lambda rows=segments: fill(rows, SPREAD)}, MIN_REPEATS)["fill"]
        cpu_s_per_s = median_cpu_s(costs) / (footage.num_frames / FRAME_RATE)
        figures += [
            Figure(f"CPU-s to decode one second of {name} at {FRAME_RATE} frames/s", cpu_s_per_s),
            Figure(f"CPU-h to decode OphNet, {name}", OPHNET_HOURS * cpu_s_per_s, "89 h of video"),
            Figure(f"CPU-h to decode 1,000 x OphNet, {name}", 1000 * OPHNET_HOURS * cpu_s_per_s),
        ]
    torch.set_num_threads(1)
    rate = local_rate()
    figures.append(
        Figure(
            "cores that feed one H100",
            H100_WINDOWS_PER_S / rate,
            f"{H100_WINDOWS_PER_S} windows/s, {rate:,.0f} windows/s per core, warm cache",
        )
    )
    return figures
