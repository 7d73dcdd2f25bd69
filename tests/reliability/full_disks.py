"""A full disk: path and bytes are named, and the same work completes once there is room.

The disks are small file systems in memory; only root can mount them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.run_directory import RunDirectory
from tests.helpers.small_disk import resize, small_disk
from tests.helpers.videos import write_color_dataset
from tests.reliability.kept_files import keep_checkpoint
from tests.reliability.outcome import Outcome

MB = 1_048_576


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
        assert len(found) == len(rows), f"{len(found)} of {len(rows)} rows are decoded"

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
