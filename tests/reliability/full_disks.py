"""A full disk: path and bytes are named, and the same work completes once there is room.

The disks are small file systems in memory; only root can mount them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.run_directory import RunDirectory
from tests.helpers.paths import TRAIN_PY
from tests.helpers.runs import flags_of, tiny_config
from tests.helpers.small_disk import resize, small_disk
from tests.helpers.videos import write_color_dataset, write_video
from tests.helpers.waiting import wait_until
from tests.reliability.kept_files import keep_checkpoint
from tests.reliability.outcome import Outcome

MB = 1_048_576
RAY_DISK_BYTES, RAY_EPOCHS = 64 * MB, 30
TIMEOUT_S = 300.0


def run_storage(n: int, seed: int, folder: Path) -> Outcome:
    """Keep a checkpoint in the folder of a run on a full disk."""

    def keep(disk: Path) -> None:
        run = RunDirectory(disk / "run")
        run.create()
        with run.locked():
            keep_checkpoint(run.checkpoints, 0, 0.5, num_weights=100_000)

    def judge(disk: Path) -> None:
        found = find_checkpoints(disk / "run" / "checkpoints")
        assert [each.epoch for each in found] == [0], "other checkpoints"

    return _run(n, folder, keep, judge, name=lambda disk: str(disk / "run" / "checkpoints"))


def run_cache(n: int, seed: int, folder: Path) -> Outcome:
    """Decode into a cache on a full disk."""
    rows = read_annotations(write_color_dataset(folder / "data"), folder / "data")
    windows = WindowConfig(image_size=160)

    def fill(disk: Path) -> None:
        cache = BlockCache(disk / "cache", windows)
        fill_cache(cache, rows, 1, decode_in_threads(1))

    def judge(disk: Path) -> None:
        _, found = BlockCache(disk / "cache", windows).look_up(rows)
        assert found.is_there.all(), f"{found.is_there.sum()} of {len(rows)} rows are decoded"

    return _run(n, folder, fill, judge, name=lambda disk: str(disk / "cache"))


def run_local_copies(n: int, seed: int, folder: Path) -> Outcome:
    """Fetch an object of a bucket to a full disk."""
    from ophnet_ray.storage.files import download, write_object
    from tests.helpers.bucket import running_bucket

    content = bytes(3 * MB)
    with running_bucket(is_quiet=True) as bucket:
        uri = bucket.uri("shard")
        write_object(uri, content)

        def judge(disk: Path) -> None:
            assert (disk / "copy").read_bytes() == content, "other bytes"

        return _run(n, folder, lambda disk: download(uri, disk / "copy"), judge, name=str)


def run_temporary(n: int, seed: int, folder: Path) -> Outcome:
    """Decode a video of a bucket whose parts are fetched to a full disk."""
    from ophnet_ray.storage.files import upload
    from tests.helpers.bucket import running_bucket

    video = folder / "noise.mp4"
    noise = np.random.default_rng(seed).integers(0, 255, (40, 96, 96, 3), dtype=np.uint8)
    write_video(video, list(noise))
    windows = WindowConfig(image_size=32)
    with running_bucket(is_quiet=True) as bucket:
        uri = bucket.uri("noise.mp4")
        upload(video, uri)
        rows = [Segment("noise:0", "noise", uri, 0.0, 3.0, "a", "train")]

        def cache_of(disk: Path) -> BlockCache:
            return BlockCache(folder / f"cache of {disk.name}", windows, str(disk))

        def fill(disk: Path) -> None:
            fill_cache(cache_of(disk), rows, 1, decode_in_threads(1))

        def judge(disk: Path) -> None:
            assert cache_of(disk).look_up(rows)[1].is_there.all(), "the video is not decoded"

        return _run(n, folder, fill, judge, name=str)


def run_ray_folder(n: int, seed: int, folder: Path) -> Outcome:
    """Train while the disk of a local Ray is full: before the start, and from an epoch on."""
    csv_path, outcome = write_color_dataset(folder / "data"), Outcome()
    for i in range(n):
        # the paths of Ray's sockets have a limit
        with (
            tempfile.TemporaryDirectory(prefix="full-", dir="/tmp") as short,
            small_disk(Path(short), RAY_DISK_BYTES) as disk,
        ):
            run = folder / f"run{i}"
            command = [
                sys.executable,
                str(TRAIN_PY),
                *flags_of(tiny_config(csv_path, run, name="run", max_epochs=RAY_EPOCHS)),
            ]
            try:
                outcome.add(_fill_up_the_disk_of_ray(command, run / "runs/run", disk, 4096 * i))
            except AssertionError as error:
                outcome.fail(str(error)[:60], str(error))
    return outcome


def _fill_up_the_disk_of_ray(command: list[str], run: Path, disk: Path, room: int) -> str:
    """Judge a run whose Ray has ``room`` bytes; return what happened to it."""

    def start() -> subprocess.Popen[str]:
        env = os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(disk)}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=env, text=True, **pipes)

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - room))

    def name(text: str) -> None:
        line = text.splitlines()[-1]
        assert str(disk) in line, f"the path is not named: {line}"
        assert "bytes" in line, f"no bytes are named: {line}"

    filler = disk / "other people's file"
    fill()
    refused = start()
    _, text = refused.communicate(timeout=TIMEOUT_S)
    assert refused.returncode == 2, f"code {refused.returncode} on a full disk: {text[-200:]}"
    name(text)
    filler.unlink()
    process = start()
    try:
        wait_until(
            lambda: process.poll() is not None or (run / "metrics.jsonl").exists(),
            "an epoch is trained",
            timeout_s=TIMEOUT_S,
        )
        fill()
        _, text = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    filler.unlink()
    happened = "named in bytes, then completed on a disk that filled up"
    if process.returncode:
        name(text)
        again = start()
        _, text = again.communicate(timeout=TIMEOUT_S)
        assert again.returncode == 0, f"code {again.returncode} with room: {text[-200:]}"
        happened = "named in bytes twice, then completed"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == RAY_EPOCHS, f"{len(lines)} epochs"
    return happened


def _run(
    n: int,
    folder: Path,
    work: Callable[[Path], None],
    judge: Callable[[Path], None],
    name: Callable[[Path], str],
) -> Outcome:
    outcome = Outcome()
    for i in range(n):
        with small_disk(folder / f"disk{i}", 2 * MB) as disk:
            filler = disk / "other people's file"
            # the room that is left differs from one attempt to the next
            filler.write_bytes(bytes(shutil.disk_usage(disk).free - 4096 * (i + 8)))
            try:
                _fail_then_complete(disk, work, name(disk))
                judge(disk)
            except AssertionError as error:
                outcome.fail(str(error)[:60], str(error))
            else:
                outcome.add("named in bytes, then completed")
    return outcome


def _fail_then_complete(disk: Path, work: Callable[[Path], None], name: str) -> None:
    try:
        work(disk)
    except (OSError, UserError) as error:
        text = str(error)
        assert name in text, f"the path is not named: {text}"
        assert "bytes" in text, f"no bytes are named: {text}"
        assert "\n" not in text, f"several lines: {text}"
    else:
        raise AssertionError("the disk was not full")
    resize(disk, 64 * MB)
    work(disk)
