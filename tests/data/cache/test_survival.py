"""Real processes at work on one cache: together, killed, on a full disk; and pruning it."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.inventory import prune, read_inventory
from ophnet_ray.data.cache.segment_keys import FORMAT_VERSION
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from tests.helpers.entries import by_key, fill_by_id  # noqa: F401 - for the code of processes
from tests.helpers.lock_holders import holding
from tests.helpers.paths import ROOT
from tests.helpers.videos import grey_frames, write_variant, write_video
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)
NUM_VIDEOS, SEGMENTS_A_VIDEO = 16, 6

FILL = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from pathlib import Path
from tests.data.cache.test_survival import fill, segments_of
print("ready", flush=True)
sys.stdin.readline()
filled = fill(sys.argv[1], segments_of(Path(sys.argv[2])))
print(filled.decoded_videos, sum(bool(entry.reason) for entry in filled.entries.values()))
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    first = write_video(folder / "v00.mp4", grey_frames(120, size=320), gop=10)
    for i in range(1, NUM_VIDEOS):
        write_variant(first, folder / f"v{i:02d}.mp4", i)
    return folder


def segments_of(folder):
    return [
        Segment(f"{video.stem}:{i}", video.stem, str(video), 2.0 * i, 2.0 * i + 2, "a", "train")
        for video in sorted(folder.glob("v*.mp4"))
        for i in range(SEGMENTS_A_VIDEO)
    ]


def fill(folder, segments):
    return fill_by_id(BlockCache(folder, WINDOWS), segments, 2, decode_in_threads(2))


def start_filling(cache, videos):
    process = subprocess.Popen(
        [sys.executable, "-c", FILL, str(cache), str(videos)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def stops_at_work(process, cache):
    """Stop a process; let it continue unless it has written a shard and is decoding another one."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    indexes = [json.loads(index.read_text()) for index in cache.rglob("*.json")]
    written = {entry["key"] for index in indexes for entry in index["entries"]}
    if written and any(key not in written for key in claimed_segments(cache)):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def claimed_segments(cache):
    return [path.name for path in cache.rglob("claims/*") if len(path.name) == 32]


def assert_right(entries, folder):
    """Every block is there, and holds the mean of its frames: frame k is a flat grey 2k."""
    for segment in segments_of(folder):
        entry = entries[segment.segment_id]
        assert entry.snippet_lengths == (2,), entry.reason
        means = read_blocks(entry, 0, np.empty((2, 32, 32, 3), np.uint8)).mean(axis=(1, 2, 3))
        first = 10 * segment.start_s + 2  # two whole blocks in the middle of 20 frames
        np.testing.assert_allclose(means, [2 * (first + 3.5), 2 * (first + 11.5)], atol=3)


def test_two_first_runs_at_once_decode_each_video_once_in_all(videos, tmp_path):
    runs = [start_filling(tmp_path / "cache", videos) for _ in range(2)]
    for process in runs:
        go(process)
    answers = [[int(n) for n in process.communicate(timeout=300)[0].split()] for process in runs]
    decoded = [num_decoded for num_decoded, _ in answers]
    assert sum(decoded) == NUM_VIDEOS
    assert [num_rejected for _, num_rejected in answers] == [0, 0]
    again = fill(tmp_path / "cache", segments_of(videos))
    assert again.decoded_videos == 0
    assert_right(again.entries, videos)
    assert not list((tmp_path / "cache").rglob("claims/*"))


def test_a_run_that_waits_for_a_killed_one_does_its_work(videos, tmp_path):
    cache = tmp_path / "cache"
    killed = start_filling(cache, videos)
    go(killed)
    wait_until(lambda: stops_at_work(killed, cache), "a shard is written", poll_s=0.005)
    waiting = start_filling(cache, videos)
    go(waiting)
    assert any("waiting for another process" in line for line in waiting.stderr)
    assert waiting.poll() is None, "it did not wait for the segments that the other one claims"
    killed.kill()
    killed.wait()
    num_decoded, num_rejected = (int(n) for n in waiting.communicate(timeout=300)[0].split())
    assert 0 < num_decoded < NUM_VIDEOS
    assert num_rejected == 0
    again = fill(cache, segments_of(videos))
    assert again.decoded_videos == 0
    assert_right(again.entries, videos)


def test_a_full_disk_is_named_and_what_was_written_is_whole(videos, tmp_path):
    """A real full disk: a small file system in memory, mounted for one process alone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "from pathlib import Path; from tests.data.cache.test_survival import *\n"
        f"folder, segments = Path({str(disk)!r}) / 'cache', segments_of(Path({str(videos)!r}))\n"
        "try: fill(folder, segments)\n"
        "except UserError as error: print(error)\n"
        "found = BlockCache(folder, WINDOWS)\n"
        "keys = found.keys_of(segments)\n"
        "entries = by_key(keys, found.find(keys))\n"
        "out = np.empty((2, 32, 32, 3), np.uint8)\n"
        "for entry in entries.values(): read_blocks(entry, 0, out)\n"
        "print(len(keys), len(entries), len(list(folder.rglob('.new.*'))))\n"
    )
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk} && exec {sys.executable} -c"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} "$0"', code],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    error, counts = done.stdout.splitlines()
    full = r"cannot be written: No space left on device \([\d,]+ bytes are free\); free some space"
    assert re.search(full, error)
    num_segments, num_found, num_leftovers = (int(n) for n in counts.split())
    assert 0 < num_found < num_segments
    assert num_leftovers == 0


WRITE = """
import sys
from pathlib import Path
from ophnet_ray.storage.files import open_atomically
with open_atomically(Path(sys.argv[1]), str) as file:
    file.write(b"half a shard")
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_next_decoder_removes_what_a_killed_one_has_left(videos, tmp_path):
    segments = segments_of(videos)[:2]
    fill(tmp_path, segments[:1])
    folder = BlockCache(tmp_path, WINDOWS).folder
    with holding(WRITE, folder) as process:
        process.kill()
        process.wait()
    with holding(WRITE, folder) as alive:
        fill(tmp_path, segments)
        (left,) = (file.name for file in folder.iterdir() if file.name.startswith(".new."))
        assert left.startswith(f".new.{alive.pid}-")


def test_pruning_removes_what_no_run_of_the_last_days_used(videos, tmp_path):
    cache, segments = tmp_path / "cache", segments_of(videos)
    fill(cache, segments[:12])
    fill(cache, segments)
    old_s = time.time() - 40 * 86_400
    for shard in read_inventory(cache).shards:
        os.utime(shard.index.shard, (old_s, old_s))
    fill(cache, segments[:12])  # a run that needs two of the videos
    torn = cache / f"blocks-v{FORMAT_VERSION}" / ".new.x1"
    torn.write_bytes(b"half")
    os.utime(torn, (old_s, old_s))
    older = cache / f"blocks-v{FORMAT_VERSION - 1}"
    older.mkdir()
    (older / "a.arrow").touch()
    os.utime(older / "a.arrow", (old_s, old_s))
    newer = cache / f"blocks-v{FORMAT_VERSION + 1}"
    newer.mkdir()
    (newer / "b.arrow").touch()
    os.utime(newer / "b.arrow", (old_s, old_s))
    assert {leftover.path.name for leftover in read_inventory(cache).leftovers} == {
        torn.name,
        "a.arrow",
    }
    removed = prune(cache, unused_days=30)
    assert len(removed.leftovers) == 2
    assert (newer / "b.arrow").exists(), "a newer version's cache is none of ours"
    assert removed.shards
    assert fill(cache, segments[:12]).decoded_videos == 0
    assert fill(cache, segments).decoded_videos == NUM_VIDEOS - 2


def test_a_cache_is_not_pruned_under_a_run(videos, tmp_path):
    segments = segments_of(videos)[:6]
    fill(tmp_path, segments)
    with BlockCache(tmp_path, WINDOWS).in_use(), pytest.raises(UserError, match="being used"):
        prune(tmp_path, unused_days=0)
    assert prune(tmp_path, unused_days=0).shards


def test_where_no_lock_shows_a_run_nothing_is_pruned(videos, tmp_path, monkeypatch):
    """A file system without locks, as Lustre is mounted by default."""
    fill(tmp_path, segments_of(videos)[:6])

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with BlockCache(tmp_path, WINDOWS).in_use():
        with pytest.raises(UserError, match=r"cannot be pruned: .*Function not implemented"):
            prune(tmp_path, unused_days=0)
        assert read_inventory(tmp_path).shards


def test_the_command_tells_what_is_there(videos, tmp_path):
    fill(tmp_path, segments_of(videos))
    command = [sys.executable, "-m", "ophnet_ray", "cache", "--cache_dir", str(tmp_path)]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True)
    header, row, _ = listed.stdout.splitlines()
    assert header.split()[:5] == ["image", "stride", "frames", "coverage", "shows"]
    num_segments = NUM_VIDEOS * SEGMENTS_A_VIDEO
    settings, counts = ["32", "8", "64", "spread", "mean"], [NUM_VIDEOS, num_segments, 0]
    assert row.split()[:8] == [*settings, *map(str, counts)]
    assert row.endswith("today")
    pruned = subprocess.run([*command, "--prune"], capture_output=True, text=True, check=True)
    assert pruned.stdout.startswith("removed 0 shards not used for 30 days and 0 leftovers")
    neither = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (neither.returncode, neither.stderr) == (2, "error: cache: give --list or --prune\n")
