"""The decode stage, against plain ffmpeg on the same files and against the exact mean."""

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.loader import read_window
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import index as video_index
from ophnet_ray.data.video.decoder import read_video_index
from ophnet_ray.data.windows import cut_windows, plan_blocks, plan_snippets
from tests.benchmarks.footage import (
    Footage,
    dense_segments,
    draw_video,
    find_ffmpeg,
    real_clips,
    repeat_video,
    typical_segments,
)
from tests.benchmarks.measure import MIN_REPEATS, interleave, median_cpu_s
from tests.benchmarks.table import Figure
from tests.helpers.entries import fill_by_id

SPREAD, HEAD = WindowConfig(), WindowConfig(coverage="head")
GOPS = (50, 250)
DRAWN_FRAMES, TIMES = 750, 3


def make_footage(folder: Path) -> list[Footage]:
    """Provide 90 s videos of drawn surgery, with key frames every 2 and 10 s, and real clips."""
    made = []
    for size in ("720p", "1080p"):
        for gop in GOPS:
            short = draw_video(folder / f"drawn_{size}_gop{gop}.mp4", size, gop, DRAWN_FRAMES)
            long = repeat_video(short.with_stem(f"{short.stem}_long"), short, TIMES)
            made.append(Footage(f"{size}, key frame every {gop}", long, DRAWN_FRAMES * TIMES))
    return made + real_clips(folder)


def ffmpeg(path: Path) -> None:
    """Run rival (c): decode every frame and drop it, in one thread like a decode task."""
    command = [find_ffmpeg(), "-v", "error", "-threads", "1", "-i", str(path), "-an"]
    subprocess.run([*command, "-f", "null", "-"], check=True)


def fill(segments: Sequence[Segment], windows: WindowConfig) -> int:
    """Run the product's decode stage into an empty cache; return the number of blocks."""
    folder = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        filled = fill_by_id(BlockCache(folder, windows), segments, 1, decode_in_threads(1))
        assert not any(entry.reason for entry in filled.entries.values())
        return sum(sum(entry.snippet_lengths) for entry in filled.entries.values())
    finally:
        shutil.rmtree(folder)


def fill_without_jumps(segments: Sequence[Segment], windows: WindowConfig) -> int:
    """Run the decode stage without seeking: every reference frame of the file is decoded."""
    video_index.MIN_JUMP_FRAMES = 10**9  # in this fork only
    return fill(segments, windows)


def count_decoded_frames(path: Path, segments: Sequence[Segment], windows: WindowConfig) -> int:
    """Count the frames that the product decodes: from each key frame to the last wanted frame."""
    index = read_video_index(path)
    wanted: list[int] = []
    for segment in segments:
        inside = index.frames_between(segment.start_s, segment.end_s)
        for snippet in plan_snippets(len(inside), windows):
            wanted += range(inside.start + snippet.start, inside.start + snippet.stop)
    frames = 0
    reached = 0
    for span in video_index.plan_spans(index, np.unique(wanted)):
        if span.key is not None:
            reached = int(np.searchsorted(index.pts, index.key_pts[span.key]))
        frames += int(span.wanted[-1]) + 1 - reached
        reached = int(span.wanted[-1]) + 1
    return frames


def compare_decoding(folder: Path) -> list[Figure]:
    """Compare the CPU time of the decode stage with ffmpeg's; measure a process's start."""
    clips = make_footage(folder)
    figures = [_first_segment(clips[0])]
    warm_up(clips[0])
    for footage in clips:
        typical, dense = typical_segments(footage), dense_segments(footage)
        works: dict[str, Callable[[], Any]] = {
            "ffmpeg": lambda path=footage.path: ffmpeg(path),
            "typical": lambda rows=typical: fill(rows, SPREAD),
            "no jumps": lambda rows=typical: fill_without_jumps(rows, SPREAD),
            "dense": lambda rows=dense: fill(rows, HEAD),
        }
        costs = {name: median_cpu_s(runs) for name, runs in interleave(works).items()}
        limit = costs["ffmpeg"]
        share = count_decoded_frames(footage.path, typical, SPREAD) / footage.num_frames
        note = f"ffmpeg {limit:.2f} CPU-s for {footage.num_frames} frames"
        figures += [
            Figure(
                f"decode, default sampling, {footage.name}",
                costs["typical"] / limit,
                note,
                "<= 1.15",
            ),
            Figure(
                f"  the same per decoded frame, {footage.name}",
                costs["typical"] / limit / share,
                f"{share:.0%} of the frames are decoded",
            ),
            Figure(f"  without seeking, {footage.name}", costs["no jumps"] / limit, ""),
            Figure(
                f"decode, every frame used, {footage.name}", costs["dense"] / limit, "", "<= 1.15"
            ),
        ]
    return figures


FIRST_SEGMENT = """
import sys, time
from pathlib import Path
from tests.benchmarks.decoding import warm_up
from tests.benchmarks.footage import Footage
costs = []
for _ in range(2):
    started_s = time.process_time()
    warm_up(Footage("", Path(sys.argv[1]), int(sys.argv[2])))
    costs.append(time.process_time() - started_s)
print(costs[0] - costs[1])
"""


def _first_segment(footage: Footage) -> Figure:
    """Measure by how many CPU-seconds a process's first segment exceeds its second."""
    command = [sys.executable, "-c", FIRST_SEGMENT, str(footage.path), str(footage.num_frames)]
    more_s = [float(subprocess.check_output(command)) for _ in range(MIN_REPEATS)]
    note = "loads the compiled code"
    return Figure("start of a decode process: CPU-s", statistics.median(more_s), note)


def warm_up(footage: Footage) -> None:
    """Load what decoding needs, for this process and its forks; it is not measured."""
    fill(dense_segments(footage)[:1], HEAD)


def compare_with_exact_mean(folder: Path) -> list[Figure]:
    """Measure the largest difference from float64 means of full-size RGB frames, resized once."""
    figures = []
    for footage in make_footage(folder):
        segments = dense_segments(footage)[:3]
        cache = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
        filled = fill_by_id(BlockCache(cache, HEAD), segments, 1, decode_in_threads(1))
        with av.open(str(footage.path)) as container:
            frames = [
                frame.to_ndarray(format="rgb24")
                for frame, _ in zip(container.decode(video=0), range(192), strict=False)
            ]
        worst = 0.0
        for i, segment in enumerate(segments):
            item = ManifestItem(segment, 0, filled.entries[segment.segment_id])
            worst = max(worst, _largest_difference(item, frames[64 * i : 64 * (i + 1)]))
        shutil.rmtree(cache)
        figures.append(
            Figure(
                f"largest error in grey levels, {footage.name}",
                worst,
                "against the exact mean",
                "<= 1.01",
            )
        )
    return figures


def _largest_difference(item: ManifestItem, frames: list[Any]) -> float:
    starts = [block.start for block in plan_blocks(plan_snippets(len(frames), HEAD), HEAD.stride)]
    ours = np.empty((HEAD.image_size, HEAD.image_size, 3), dtype=np.uint8)
    worst = 0.0
    for first, count in cut_windows(item.entry.snippet_lengths, HEAD.blocks_per_window):
        read_window(item.entry, int(first), int(count), ours)
        window = frames[starts[first] : starts[first] + HEAD.window_size]
        exact = np.mean(window, axis=0, dtype=np.float64)
        exact = cv2.resize(exact, ours.shape[:2], interpolation=cv2.INTER_AREA)
        worst = max(worst, float(np.abs(ours - exact).max()))
    return worst
