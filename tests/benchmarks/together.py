"""Two first runs of train.py at the same moment on one cache: who decodes what."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.benchmarks.footage import draw_video
from tests.benchmarks.scaling import FRAMES, training_command, write_dataset
from tests.benchmarks.table import Figure

NUM_VIDEOS = 24


def compare_together(folder: Path) -> list[Figure]:
    """Videos decoded by both runs over those there are."""
    video = draw_video(folder / "drawn_720p_gop50.mp4", "720p", 50, FRAMES)
    place = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        write_dataset(place, video, NUM_VIDEOS)
        runs = {name: _start(place, name) for name in ("one", "other")}
        try:
            counts = [_finish(process, place, name) for name, process in runs.items()]
        finally:
            for process in runs.values():
                process.terminate()
                process.wait()
    finally:
        shutil.rmtree(place)
    note = f"{counts[0]} and {counts[1]} of {NUM_VIDEOS} videos"
    name = "two first runs at once: videos decoded / videos"
    return [Figure(name, sum(counts) / NUM_VIDEOS, note, "<= 1")]


def _start(place: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        training_command("--name", name, "--output_pth", f"{name}.ckpt"),
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _finish(process: subprocess.Popen[bytes], place: Path, name: str) -> int:
    """The videos that a run decoded itself, from its log."""
    status = process.wait()
    log = (place / "runs" / name / "logs" / "driver.log").read_text()
    found = re.search(r"decoded (\d+) of \d+ videos", log)
    if status or found is None:
        raise RuntimeError(log)
    return int(found[1])
