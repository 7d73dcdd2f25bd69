"""Small files of a run, a search and a cache with damage: as written, or one line with a cure."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.cache.block_reader import check_blocks, read_blocks
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.passport import build_passport
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.storage.local_copies import ORIGIN_FILE, find_origin, mark_copy
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.space import parse_search_space
from ophnet_ray.tune.trial import read_trial, write_trial_end
from tests.helpers.entries import find_entries
from tests.reliability.damage import damage
from tests.reliability.kept_files import keep_checkpoint
from tests.reliability.outcome import Outcome, attempt

NAME = "small files"
_WINDOWS = WindowConfig(image_size=32)
_RESOURCES = {"train_workers": 1, "device": "CPU", "threads_per_worker": 2}
_HISTORY = [{"epoch": i, "val_macro_f1": 0.8, "val_loss": 0.4, "seconds": 1.0} for i in range(5)]


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Read each file ``n / number of files`` times, each time with another damage."""
    outcome = Outcome()
    readers = {**_run_files(folder / "run"), **_search_files(folder), **_cache_files(folder)}
    readers |= _copy_files(folder / "copy")
    for number, (file, read) in enumerate(readers.items()):
        whole, truth = file.read_bytes(), read()
        for i in range(number, n, len(readers)):
            data = damage(random.Random(f"{NAME}:{seed}:{i}"), whole)
            file.write_bytes(data)
            attempt(
                outcome, lambda read=read, truth=truth: _judge(read(), truth), (file.name, data)
            )
            assert file.exists(), f"{file} was deleted"
        file.write_bytes(whole)
    return outcome


def _judge(found: object, truth: object) -> str:
    if found == truth:
        return "unharmed"
    # a checkpoint, a segment of the cache or the end of a trial: left out, and made again
    assert found is None or found == [], "other values, without a word"
    return "skipped with a warning"


def _run_files(folder: Path) -> dict[Path, Callable[[], object]]:
    run = RunDirectory(folder)
    run.create()
    run.write_config(Config())
    data = RunData(as_table(()), as_table(()), "a" * 64)
    run.write_passport(build_passport(data, Manifest(("a", "b"), _WINDOWS, ()), [], _RESOURCES))
    run.write_metrics(_HISTORY)
    checksum = run.hash_metrics()
    run.write_result(RunResult("checkpoints/epoch=0001/checkpoint.ckpt", 2, {"a": 0.9}, checksum))
    keep_checkpoint(run.checkpoints, 0, 0.5)

    def read_metrics() -> object:
        history, result = run.read_metrics(), run.read_result()
        # the stages compare the two before they report
        return history if result and result.metrics_sha256 == run.hash_metrics() else None

    return {
        run.config: run.read_config,
        run.passport: run.read_passport,
        run.result: run.read_result,
        run.metrics: read_metrics,
        run.checkpoints / "epoch=0000/manifest.json": lambda: find_checkpoints(run.checkpoints),
    }


def _search_files(folder: Path) -> dict[Path, Callable[[], object]]:
    search = SearchDirectory(folder / "search")
    config = TuneConfig().replace_flat(search=["lr=loguniform(1e-5,1e-2)"])
    space = parse_search_space(config.search.search, config.base())
    search.path.mkdir()
    search.check_same(config, space, "d" * 64)
    run = search.start_trial(0, {"lr": 1e-3})
    run.write_metrics(_HISTORY)
    write_trial_end(run, "finished", 5)

    def read() -> object:
        trial = read_trial(run.path)
        return None if trial.state == "unfinished" else trial

    return {
        search.identity: lambda: search.check_same(config, space, "d" * 64),
        run.path / "trial.json": read,
        run.path / "ended.json": read,
        run.metrics: read,
    }


def _copy_files(folder: Path) -> dict[Path, Callable[[], object]]:
    folder.mkdir()
    mark_copy(folder, "s3://surgery/runs/demo?region=eu-central-1")
    return {folder / ORIGIN_FILE: lambda: find_origin(folder / "checkpoint.ckpt")}


def _cache_files(folder: Path) -> dict[Path, Callable[[], object]]:
    cache = BlockCache(folder / "cache", _WINDOWS)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    blocks = SegmentBlocks(tuple(pixels), (3,))
    keys = [f"{i:032x}" for i in range(4)]
    rows = (DecodedSegment(key, "/videos/v.mp4", blocks) for key in keys)
    entries = write_shard(cache.folder, rows, _WINDOWS)
    shard = Path(entries[0].path)

    def read() -> object:
        found = find_entries(cache, keys)
        for entry in found.values():
            read = read_blocks(entry, 0, np.empty_like(pixels))
            check_blocks(entry, 0, read)
            assert np.array_equal(read, pixels), "other pixels, without a word"
        return [found[key].snippet_lengths for key in keys if key in found]

    return {shard.with_suffix(".json"): read}
