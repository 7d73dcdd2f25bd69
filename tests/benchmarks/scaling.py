"""Scaling with more and longer videos: wall time and peak memory of decoding and of runs."""

import csv
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.footage import Footage, draw_video, repeat_video, typical_segments
from tests.benchmarks.table import Figure

FRAMES, TIMES = 750, (1, 4, 16)
NUM_VIDEOS = 4
ROOT = Path(__file__).parents[2]

DECODE = """
import re, sys, tempfile
from pathlib import Path
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from tests.benchmarks.footage import Footage, typical_segments
footage = Footage("", Path(sys.argv[1]), int(sys.argv[2]))
with tempfile.TemporaryDirectory() as folder:
    cache = BlockCache(folder, WindowConfig())
    fill_cache(cache, typical_segments(footage), 1, decode_in_threads(1))
# not getrusage: its peak includes the process that started this one
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def compare_lengths(folder: Path) -> list[Figure]:
    """Measure peak memory of a decode process for 1, 4 and 16 times the length of a video."""
    figures, peaks = [], []
    one = draw_video(folder / "drawn_720p_gop50.mp4", "720p", 50, FRAMES)
    for times in TIMES:
        video = repeat_video(folder / f"scale_{times}.mp4", one, times)
        command = [sys.executable, "-c", DECODE, str(video), str(FRAMES * times)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        peaks.append(int(done.stdout))
        note = f"{FRAMES * times / 25:.0f} s of 720p"
        figures.append(Figure(f"decode process, {times} x length: MB", peaks[-1] / 1e6, note))
    figures.append(Figure("decode process: 16 x / 1 x", peaks[-1] / peaks[0], "", "<= 1.1"))
    return figures


def compare_scales(folder: Path) -> list[Figure]:
    """Measure wall time and peak memory of whole runs on 1, 4 and 16 times the videos."""
    figures, peaks = [], []
    one = draw_video(folder / "drawn_720p_gop50.mp4", "720p", 50, FRAMES)
    for times in TIMES:
        peak_bytes, wall_s = run_training(one, NUM_VIDEOS * times)
        peaks.append(peak_bytes)
        note = f"{wall_s:.0f} s wall, all processes"
        name = f"train.py, {NUM_VIDEOS * times} videos: MB"
        figures.append(Figure(name, peak_bytes / 1e6, note))
    figures.append(Figure("train.py: 16 x / 1 x the videos", peaks[-1] / peaks[0], "", "<= 1.1"))
    return figures


def write_dataset(folder: Path, video: Path, num_videos: int) -> None:
    """Write copies of a video, one per case, and ``segments.csv``."""
    rows = []
    for i in range(num_videos):
        shutil.copyfile(video, folder / f"v{i}.mp4")
        with (folder / f"v{i}.mp4").open("ab") as file:
            # a box that players skip: videos of equal content would count as one case
            file.write(struct.pack(">I4sI", 12, b"free", i))
        footage = Footage("", folder / f"v{i}.mp4", FRAMES)
        rows += [
            [segment.case_id, segment.start_s, segment.end_s, "ab"[index % 2]]
            for index, segment in enumerate(typical_segments(footage))
        ]
    with (folder / "segments.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video_id", "start", "end", "phase"], *rows])


def training_command(*options: str) -> list[str]:
    """Return the command of ``train.py`` with a small network on ``segments.csv``."""
    settings = (
        "--csv_path segments.csv --backbone test_resnet --no-pretrained --max_epochs 2 "
        "--recipe seed --batch_size 4 --num_workers 2"
    )
    return [sys.executable, str(ROOT / "train.py"), *settings.split(), *options]


def run_training(video: Path, num_videos: int) -> tuple[int, float]:
    """Train as a user does; return the peak memory of all processes, and the wall time."""
    folder = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        write_dataset(folder, video, num_videos)
        started_s = time.monotonic()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(training_command(), cwd=folder, stdout=log, stderr=log)
            peak_bytes = watch_memory(process)
        if process.returncode:
            raise RuntimeError((folder / "log").read_text())
        return peak_bytes, time.monotonic() - started_s
    finally:
        shutil.rmtree(folder)


def watch_memory(process: subprocess.Popen[bytes]) -> int:
    """Return the peak memory of a process and its descendants; shared pages count once."""
    peak_bytes = 0
    while process.poll() is None:
        total = 0
        for member in _family(process.pid):
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue  # it has just ended
        peak_bytes = max(peak_bytes, total)
        time.sleep(0.3)
    return peak_bytes


def _family(pid: int) -> list[psutil.Process]:
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
