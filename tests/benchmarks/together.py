"""Two runs of train.py that start simultaneously on one empty cache, and share the decoding."""

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
    """Measure the videos decoded by both runs over the number of videos."""
    video = draw_video(folder / "drawn_720p_gop50.mp4", "720p", 50, FRAMES)
    scratch = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        write_dataset(scratch, video, NUM_VIDEOS)
        runs = {name: _start(scratch, name) for name in ("one", "other")}
        try:
            counts = [_finish(process, scratch, name) for name, process in runs.items()]
        finally:
            for process in runs.values():
                process.terminate()
                process.wait()
    finally:
        shutil.rmtree(scratch)
    note = f"{counts[0]} and {counts[1]} of {NUM_VIDEOS} videos"
    name = "two simultaneous first runs: videos decoded / videos"
    return [Figure(name, sum(counts) / NUM_VIDEOS, note, "<= 1")]


def _start(scratch: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        training_command("--name", name, "--output_pth", f"{name}.ckpt"),
        cwd=scratch,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _finish(process: subprocess.Popen[bytes], scratch: Path, name: str) -> int:
    """Wait for a run; return the number of videos that it decoded, from its log."""
    status = process.wait()
    log = (scratch / "runs" / name / "logs" / "driver.log").read_text()
    found = re.search(r"decoded (\d+) of \d+ videos", log)
    if status or found is None:
        raise RuntimeError(log)
    return int(found[1])
