"""Cost of a run's data stage up to decoding, on tables and caches of any number of times OphNet.

Videos and shards are files of the right size without content; the indexes and the journal are
real. Each size is measured in a process of its own.
"""

import argparse
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ophnet_ray.config import DataConfig, WindowConfig
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.fill import fill_cache
from ophnet_ray.data.cache.journals import RunJournals
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.store import CACHE_VERSION, BlockCache, DecodeResult
from ophnet_ray.data.cache.task_plan import DecodeTask
from ophnet_ray.data.run_data import read_run_data
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.container import CODEC_VERSIONS
from ophnet_ray.storage.records import dump_record
from tests.benchmarks.measure import read_peak_mb
from tests.benchmarks.table import Figure, describe_growth, print_table

SCALES = (1, 10, 100)
NUM_SEGMENTS, NUM_VIDEOS, NUM_PHASES = 14_674, 743, 52
"""Size of OphNet; each video is a case."""
SEGMENTS_PER_SHARD = 26
WINDOWS = WindowConfig()
SHARD_BYTES = 32_000_000
GOAL_SCALE = 100
GOALS = {
    "whole start, in all: CPU-s": "<= 60",
    "whole start, peak: MB": "<= 2000",
    "cache, fill, share of decoding": "<= 0.01",
}
"""Targets at ``GOAL_SCALE``."""
DECODE_S_PER_SEGMENT = 0.1
"""CPU-seconds to decode a segment of OphNet, rather less than measured."""


def measure_caches(folder: Path, scales: Sequence[int] = SCALES) -> list[Figure]:
    """Measure each size in a process of its own."""
    found: dict[int, dict[str, float]] = {}
    for scale in scales:
        whole = _run("scale_cache", scale, folder)
        table, cache = folder / f"videos-{scale}" / "table.csv", folder / f"cache-{scale}"
        start = _run("scale_start", table, cache, folder / "runs")
        found[scale] = {f"cache, {name}": value for name, value in whole.items()}
        found[scale] |= {f"whole start, {name}": value for name, value in start.items()}
    names = [name for name in found[scales[0]] if "wall" not in name]
    return [
        describe_growth(
            name,
            scale,
            {each: found[each][name] for each in found},
            GOALS.get(name, "") if scale == GOAL_SCALE else "",
        )
        for name in names
        for scale in scales
    ]


def _run(module: str, *arguments: object) -> dict[str, float]:
    """Run a module of this folder; return the costs that it prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


def build_data(folder: Path, scale: int) -> Path:
    """Write videos without content and their table, unless they are there; return the CSV."""
    videos = folder / f"videos-{scale}"
    path = videos / "table.csv"
    if path.exists():
        return path
    videos.mkdir(parents=True, exist_ok=True)
    for i in range(NUM_VIDEOS * scale):
        with (videos / f"case_{i:06d}.mp4").open("wb") as file:
            file.truncate(1_000_000 + i)  # two videos of one size would be compared
    with path.with_suffix(".new").open("w") as file:
        file.write("video_id,start,end,phase_id\n")
        per_video = NUM_SEGMENTS / NUM_VIDEOS
        for i in range(NUM_SEGMENTS * scale):
            video, start = int(i / per_video), 11.5 * (i % 40)
            phase = i * 2_654_435_761 // 7 % NUM_PHASES
            file.write(f"case_{video:06d},{start:.2f},{start + 11:.2f},{phase}\n")
    return path.with_suffix(".new").rename(path)


def build_shards(cache: BlockCache, segments: list[Segment]) -> None:
    """Write shards without content, and their indexes, for segments."""
    keys = cache.keys_of(segments)
    for number, first in enumerate(range(0, len(keys), SEGMENTS_PER_SHARD)):
        chosen = range(first, min(first + SEGMENTS_PER_SHARD, len(keys)))
        shard = cache.folder / f"{number:024x}.arrow"
        with shard.open("wb") as file:
            file.truncate(SHARD_BYTES)
        entries = [
            {
                "key": keys[i],
                "path": shard.name,
                "offset": 584 + (i - first) * 1_204_224,
                "run_lengths": [4, 4],
                "reason": "",
                "was_cut": False,
                "source": "",
            }
            for i in chosen
        ]
        index = {
            "size_bytes": SHARD_BYTES,
            "windows": {"image_size": 224, "stride": 8, "max_frames": 64, "coverage": "spread"},
            "videos": sorted({segments[i].video for i in chosen}),
            "entries": entries,
            "codec": CODEC_VERSIONS,
            "reject_kinds": {},
            "checksums": {keys[i]: f"{i:064x}" for i in chosen},
        }
        shard.with_suffix(".json").write_bytes(dump_record(index))


class Costs:
    """CPU-seconds, requests of files and peak memory of stages, by their names."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._num_requests = 0
        self._is_counting = False
        for name in ("stat", "lstat", "utime"):
            setattr(os, name, self._counted(getattr(os, name)))
        sys.addaudithook(self._hear)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._num_requests += self._is_counting
            return function(*args, **options)

        return call

    def _hear(self, event: str, _: Any) -> None:
        if self._is_counting and event in ("open", "os.scandir", "os.listdir"):
            self._num_requests += 1

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        self._num_requests, self._is_counting = 0, True
        cpu_s, started_s = time.process_time(), time.monotonic()
        yield
        self.values[f"{name}, CPU s"] = time.process_time() - cpu_s
        self.values[f"{name}, wall s"] = time.monotonic() - started_s
        self._is_counting = False
        self.values[f"{name}, requests"] = self._num_requests
        peak = read_peak_mb()
        self.values[f"{name}, peak MB"] = peak
        print(name, self.values[f"{name}, CPU s"], self._num_requests, peak, file=sys.stderr)


def measure_scale(folder: Path, scale: int) -> dict[str, float]:
    """Measure the stages of a run at one size."""
    csv_path = build_data(folder, scale)
    cache_dir = folder / f"cache-{scale}"
    if not (cache_dir / "complete").exists():
        # in another process: its memory is none of the run's
        command = [sys.executable, "-c", BUILD, str(csv_path), str(cache_dir)]
        subprocess.run(command, check=True)
    costs = Costs()
    config = replace(DataConfig(), video_dir=str(csv_path.parent))
    with costs.stage("read and split"):
        data = read_run_data(str(csv_path), config, 0, lambda _: None)
    segments = data.segments
    with costs.stage("open"):
        cache = BlockCache(cache_dir, WINDOWS)
    cache.keys_of(segments)  # reads the new videos; a later start finds their ids in the memo
    with costs.stage("keys"):
        keys = cache.keys_of(segments, data.files)
    with costs.stage("catalog of an old cache"):
        cache.update_catalog()
    with costs.stage("look up one video"):
        found = cache.find(keys[:20])
    assert found.is_there.all()
    with costs.stage("look up all"):
        found = cache.find(keys)
    assert found.is_there.all()
    with costs.stage("look up all and a new one"):
        found = cache.find(keys.join(KeyColumns.of_texts(["0" * 32])))
    assert found.is_there.sum() == len(keys)
    with costs.stage("mark as used"):
        cache.mark_used(found)
    _measure_filling(costs, folder, segments, keys, found)
    return costs.values


def _measure_filling(
    costs: Costs,
    folder: Path,
    segments: SegmentTable,
    keys: KeyColumns,
    entries: CacheEntries,
) -> None:
    """Measure a fill of an empty cache with a decoder that takes no time."""
    shutil.rmtree(folder / f"empty-{len(keys) // NUM_SEGMENTS}", ignore_errors=True)
    empty = BlockCache(folder / f"empty-{len(keys) // NUM_SEGMENTS}", WINDOWS)
    with costs.stage("identify new videos, once"):
        empty.keys_of(segments)
    num_tasks, lookup_s = 0, 0.0
    ordered = keys.take(keys.order)

    def decode_all(_: BlockCache, tasks: Sequence[DecodeTask]) -> Iterator[DecodeResult]:
        nonlocal num_tasks, lookup_s
        num_tasks = len(tasks)
        for task in tasks:
            started_s = time.process_time()
            asked = KeyColumns.of_texts(key for _, key in task)
            found = [
                replace(entries[row], key=asked[which])
                for rows, places in KeyJoin(asked).match(ordered)
                for which, row in zip(rows.tolist(), keys.order[places].tolist(), strict=True)
            ]
            lookup_s += time.process_time() - started_s
            # as they arrive from another process
            done = pickle.loads(pickle.dumps(found))
            yield DecodeResult(tuple(done), frozenset({s.video for s, _ in task}), 8 * len(task))

    with costs.stage("fill"):
        filled = fill_cache(empty, segments, 64, decode_all, lambda _: None)
    assert filled.entries.is_there.all()
    costs.values["fill, CPU s"] -= lookup_s
    costs.values["fill, CPU ms per task"] = costs.values["fill, CPU s"] / num_tasks * 1e3
    decode_s = len(segments) * DECODE_S_PER_SEGMENT
    costs.values["fill, share of decoding"] = costs.values["fill, CPU s"] / decode_s
    # what another run writes while this one decodes
    early = BlockCache(empty.location, WINDOWS)
    other_run = RunJournals(early.folder / "journals", early.claims)
    num_new = len(keys) // SEGMENTS_PER_SHARD // 10
    names = list(
        itertools.islice(
            (folder / f"cache-{len(keys) // NUM_SEGMENTS}" / CACHE_VERSION).glob("*.json"), num_new
        )
    )
    for path in names:
        for suffix in (".json", ".arrow"):
            target = early.folder / path.with_suffix(suffix).name
            target.unlink(missing_ok=True)
            os.link(path.with_suffix(suffix), target)
        other_run.append(path.name)
    texts = list(keys)
    with costs.stage("what is new, a tenth"):
        assert early.find_new(texts)
    with costs.stage("what is new, nothing"):
        assert early.find_new(texts[:26]) is not None


BUILD = """
import sys
from pathlib import Path
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.store import BlockCache
from tests.benchmarks.scale_cache import WINDOWS, build_shards
cache = BlockCache(sys.argv[2], WINDOWS)
build_shards(cache, read_annotations(sys.argv[1]))
(Path(sys.argv[2]) / "complete").touch()
"""


def main() -> None:
    """Measure one size, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scale", type=int, help="one size; 0: 1, 10 and 100 times OphNet")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.scale:
        print(json.dumps(measure_scale(options.folder, options.scale)))
    else:
        print_table("scale_cache", measure_caches(options.folder))


if __name__ == "__main__":
    main()
