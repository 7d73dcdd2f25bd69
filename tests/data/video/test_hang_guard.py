"""A codec that does not return: the process ends, and only where it was asked for."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit

# The sum is over a huge range: compiled code that lets no other Python code run. The guard goes by
# the clock: a sleep of more than its limit stands for work of that length.
DECODE = """
import sys, time
from ophnet_ray.data.video.container import open_container, read_packets
from ophnet_ray.data.video.hang_guard import codec_at_rest, codec_at_work, end_hanging_process
with end_hanging_process(float(sys.argv[2])):
    with open_container(sys.argv[1]) as video:
        print(len([p for p in read_packets(video) if p.size]), flush=True)
    if sys.argv[3] == "return":
        time.sleep(1.5)
    if sys.argv[3] == "hang":
        with codec_at_work():
            sum(range(10 ** 11))
    if sys.argv[3] == "rest":
        with codec_at_work(), codec_at_rest():
            time.sleep(1.5)
if sys.argv[3] == "return":
    time.sleep(1.5)
print("left", flush=True)
sys.stdin.read()
"""


def run(path, limit_s, what):
    return subprocess.run(
        [sys.executable, "-c", DECODE, str(path), str(limit_s), what],
        input="",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )


def test_a_codec_that_does_not_return_ends_its_process(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_frames(20))
    done = run(path, 1.0, "hang")
    assert (done.returncode, done.stdout) == (1, "20\n")
    assert "Timeout" in done.stderr


def test_one_that_returns_does_not_whatever_is_computed_afterwards(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_frames(20))
    done = run(path, 1.0, "return")
    assert (done.returncode, done.stdout) == (0, "20\nleft\n")


def test_other_work_between_two_packets_does_not_count(tmp_path):
    """A model on a slow machine computes for longer than a codec may be silent."""
    path = write_video(tmp_path / "v.mp4", grey_frames(20))
    done = run(path, 1.0, "rest")
    assert (done.returncode, done.stdout) == (0, "20\nleft\n")
