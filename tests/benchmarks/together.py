"""Two first runs of train.py at the same moment on one cache: who decodes what."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.table import Figure

ROOT = Path(__file__).parents[2]


def compare_together(folder: Path) -> list[Figure]:
    """Videos decoded by both runs over those there are, on the demo data set."""
    place = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        # the videos are drawn by a run of one epoch with a cache of its own
        first = _start(place, "first")
        _, num_videos = _finish(first, place, "first")
        shutil.rmtree(next((place / "runs" / "cache").glob("blocks-*")))
        runs = {name: _start(place, name) for name in ("second", "third")}
        counts = [_finish(process, place, name)[0] for name, process in runs.items()]
    finally:
        shutil.rmtree(place)
    note = f"{counts[0]} and {counts[1]} of {num_videos} videos"
    return [Figure("two first runs: videos decoded / videos", sum(counts) / num_videos, note)]


def _start(place: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "train.py"), "--max_epochs", "1", "--name", name]
    return subprocess.Popen(
        [*command, "--output_pth", f"{name}.ckpt"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _finish(process: subprocess.Popen[bytes], place: Path, name: str) -> tuple[int, int]:
    if process.wait():
        raise RuntimeError((place / "runs" / name / "logs" / "driver.log").read_text())
    log = (place / "runs" / name / "logs" / "driver.log").read_text()
    found = re.search(r"decoded (\d+) of (\d+) videos", log)
    if found is None:
        raise RuntimeError(log)
    return int(found[1]), int(found[2])
