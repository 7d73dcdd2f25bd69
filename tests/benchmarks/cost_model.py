"""What a data set costs: bytes and CPU-hours, from figures measured here; formulas in README.md."""

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
H100_WINDOWS_A_SECOND = 500


def segment_bytes(windows: WindowConfig) -> int:
    """Bytes of a whole segment in the cache: blocks times pixels, uncompressed."""
    return windows.max_frames // windows.stride * windows.image_size**2 * 3


def describe_costs(folder: Path) -> list[Figure]:
    """The model with the figures of this machine."""
    size = segment_bytes(SPREAD)
    figures = [
        Figure("MB a segment", size / 1e6, "max_frames / stride x image_size^2 x 3"),
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
        a_second = median_cpu_s(costs) / (footage.num_frames / FRAME_RATE)
        figures += [
            Figure(f"CPU-s to decode a second of {name} at {FRAME_RATE} frames/s", a_second),
            Figure(f"CPU-h to decode OphNet, {name}", OPHNET_HOURS * a_second, "89 h of video"),
            Figure(f"CPU-h to decode 1,000 x OphNet, {name}", 1000 * OPHNET_HOURS * a_second),
        ]
    torch.set_num_threads(1)
    rate = local_rate()
    figures.append(
        Figure(
            "cores that feed one H100",
            H100_WINDOWS_A_SECOND / rate,
            f"{H100_WINDOWS_A_SECOND} windows/s at {rate:,.0f} windows/s and core, warm cache",
        )
    )
    return figures
