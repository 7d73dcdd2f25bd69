"""The read stage inside Ray Train workers: the product's iterator against other readers."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import DataConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader, RandomSampler

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.datasets import OphNetSurgicalDataset
from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.samplers import TrainingSampler
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.data.windows import mean_of_blocks
from ophnet_ray.distributed.cluster import connect
from tests.benchmarks.footage import draw_clips
from tests.benchmarks.table import Figure

WINDOWS = WindowConfig()
NUM_SEGMENTS, BLOCKS, NUM_EPOCHS, REPEATS, BATCH_SIZE = 2000, 8, 10, 3, 32
SEGMENTS_PER_SHARD = 26
BLOCK_BYTES = WINDOWS.image_size**2 * 3
RAY_DATA_ROWS, TORCH_WINDOWS = 2000, 2000


def write_cache(folder: Path, num_segments: int = NUM_SEGMENTS) -> Manifest:
    """Write segments of noise in the product's shards: 2,000 segments are 2.4 GB."""
    rng = np.random.default_rng(0)
    shape = (BLOCKS, WINDOWS.image_size, WINDOWS.image_size, 3)
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    items: list[ManifestItem] = []
    for first in range(0, num_segments, SEGMENTS_PER_SHARD):
        rows = []
        for i in range(first, min(first + SEGMENTS_PER_SHARD, num_segments)):
            pixels = tuple(np.roll(block, i, axis=1) for block in noise)
            rows.append(DecodedSegment(f"{i:032x}", "v", SegmentBlocks(pixels, (4, 4))))
        entries = write_shard(folder, rows, WINDOWS)
        for i, entry in enumerate(entries, start=first):
            items.append(
                ManifestItem(Segment(f"s{i}", f"c{i}", "v", 0.0, 1.0, "a", "train"), 0, entry)
            )
    return Manifest(("a",), WINDOWS, tuple(items))


def product_loader(manifest: Manifest, rank: int, num_replicas: int) -> WindowLoader:
    """Build the loader that ``OphNetDataModule.train_dataloader`` builds on a worker."""
    rows = SegmentColumns.of_items(manifest.items)
    sampler = TrainingSampler(
        rows.ids,
        rows.layouts,
        WINDOWS.blocks_per_window,
        BATCH_SIZE,
        seed=0,
        rank=rank,
        num_replicas=num_replicas,
    )
    return WindowLoader(rows, sampler, WINDOWS.image_size)


def product(loader: WindowLoader) -> int:
    """Read ten epochs with the product's iterator; return the number of windows."""
    windows = 0
    for epoch in range(NUM_EPOCHS):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        windows += sum(len(batch["label"]) for batch in loader)
    return windows


def bare_loop(
    loader: WindowLoader,
    items: tuple[ManifestItem, ...],
    fetch: Callable[[ManifestItem, int, int], NDArray[np.uint8]],
) -> int:
    """Read with rival (d), a plain loop over the same windows; return the number of windows."""
    shape = (BATCH_SIZE, WINDOWS.image_size, WINDOWS.image_size, 3)
    windows = 0
    batch = np.empty(shape, dtype=np.uint8)
    for epoch in range(NUM_EPOCHS):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for step in loader.sampler:
            for target, (i, first, count) in zip(batch, step.windows.tolist(), strict=False):
                mean_of_blocks(fetch(items[i], first, count), target)
            windows += len(step.windows)
    return windows


class Memmaps:
    """Reader of blocks through memory maps that stay open."""

    def __init__(self, items: tuple[ManifestItem, ...]) -> None:
        self.maps = {item.entry.path: np.memmap(item.entry.path, mode="r") for item in items}
        self.scratch = np.empty((2, WINDOWS.image_size, WINDOWS.image_size, 3), dtype=np.uint8)

    def fetch(self, item: ManifestItem, first: int, count: int) -> NDArray[np.uint8]:
        """Return a copy of the blocks, in memory that the next call reuses."""
        start = item.entry.offset + first * BLOCK_BYTES
        data = self.maps[item.entry.path][start : start + count * BLOCK_BYTES]
        self.scratch[:count] = data.reshape(count, *self.scratch.shape[1:])
        return self.scratch[:count]


class Positions:
    """Reader of blocks by positional reads from files that stay open."""

    def __init__(self, items: tuple[ManifestItem, ...]) -> None:
        self.files = {path: os.open(path, os.O_RDONLY) for path in {i.entry.path for i in items}}
        self.scratch = np.empty((2, WINDOWS.image_size, WINDOWS.image_size, 3), dtype=np.uint8)

    def fetch(self, item: ManifestItem, first: int, count: int) -> NDArray[np.uint8]:
        """Return the blocks, in memory that the next call reuses."""
        blocks = self.scratch[:count]
        position = item.entry.offset + first * BLOCK_BYTES
        os.preadv(self.files[item.entry.path], [blocks.data], position)
        return blocks


def rates(works: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Measure windows per CPU-second of this process and its children, median of three."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            before = _cpu_s()
            windows = work()
            found[name].append(windows / (_cpu_s() - before))
    return {name: float(np.median(values)) for name, values in found.items()}


def worker_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Measure on a Ray Train worker."""
    torch.set_num_threads(1)
    manifest: Manifest = config["manifest"]
    context = ray.train.get_context()
    loader = product_loader(manifest, context.get_world_rank(), context.get_world_size())
    answer: dict[str, Any] = {}
    if config["cold"]:
        answer["cold"] = read_cold(loader, manifest)
    else:
        product(loader)  # into the page cache
        works: dict[str, Callable[[], int]] = {"product": lambda: product(loader)}
        if config["rivals"]:
            items = tuple(manifest.items)  # not made again at each read
            maps, files = Memmaps(items), Positions(items)
            works |= {
                "memory map": lambda: bare_loop(loader, items, maps.fetch),
                "positions": lambda: bare_loop(loader, items, files.fetch),
            }
        answer |= rates(works)
        answer |= {name: wait_share(loader, step) for name, step in STEPS.items()}
    ray.train.report({})
    return answer


def read_cold(loader: WindowLoader, manifest: Manifest) -> float:
    """Measure bytes read from the disk over bytes needed, in an epoch from a cold cache."""
    for path in {item.entry.path for item in manifest.items}:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    before = _read_bytes()
    windows = sum(len(batch["label"]) for batch in loader)
    ratio = (_read_bytes() - before) / (windows * 2 * BLOCK_BYTES)
    if ratio < 0.5:
        raise RuntimeError("the cache was still in memory: its folder is not on a disk")
    return ratio


def wait_share(loader: WindowLoader, step: Callable[[], None]) -> float:
    """Measure the share of an epoch that a training loop of 20 ms per batch waits for data."""
    for _ in loader:
        step()
    return loader.wait_share


def fit(manifest: Manifest, num_workers: int, *, cold: bool, rivals: bool) -> dict[str, Any]:
    """Run ``worker_loop`` on train workers; return the answer of rank 0."""
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"manifest": manifest, "cold": cold, "rivals": rivals},
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(storage_path=str(Path(manifest.items[0].entry.path).parent / "ray")),
    )
    answer: dict[str, Any] = trainer.fit().return_value
    return answer


def ray_data_rate(manifest: Manifest, folder: Path) -> float:
    """Measure Ray Data's iterator in a train worker, on the same pixels as rows of Parquet files.

    The unit is windows per CPU-second of all processes of this Ray: Ray Data works in several.
    """
    folder.mkdir()
    rows = tuple(manifest.items)
    reader = Positions(rows)
    for part in range(2):
        items = rows[part::2][: RAY_DATA_ROWS // 2]
        pixels = b"".join(reader.fetch(item, 0, 2).tobytes() for item in items)
        column = pa.Array.from_buffers(
            pa.binary(2 * BLOCK_BYTES), len(items), [None, pa.py_buffer(pixels)]
        )
        table = pa.table({"pixels": column})
        pq.write_table(table, folder / f"{part}.parquet", compression="none", use_dictionary=False)
    dataset = ray.data.read_parquet(str(folder))
    trainer = TorchTrainer(
        iterate_ray_data,
        scaling_config=ScalingConfig(num_workers=1),
        datasets={"train": dataset},
        dataset_config=DataConfig(datasets_to_split=["train"]),
        run_config=RunConfig(storage_path=str(folder.parent / "ray")),
    )
    rate: float = trainer.fit().return_value["rate"]
    return rate


def iterate_ray_data(_: dict[str, Any]) -> dict[str, float]:
    """Read epochs with Ray Data on a train worker; the first one is not measured."""
    shard = ray.train.get_dataset_shard("train")
    shape = (-1, 2, WINDOWS.image_size, WINDOWS.image_size, 3)
    target = np.empty((BATCH_SIZE, *shape[2:]), dtype=np.uint8)
    windows = 0
    for epoch in range(4):
        if epoch == 1:
            before = _cpu_s_of_ray()
            windows = 0
        for batch in shard.iter_batches(batch_size=BATCH_SIZE, batch_format="pyarrow"):
            column = batch["pixels"].combine_chunks()
            data = np.frombuffer(column.buffers()[1], dtype=np.uint8)
            data = data[column.offset * 2 * BLOCK_BYTES :][: len(column) * 2 * BLOCK_BYTES]
            for out, blocks in zip(target, data.reshape(shape), strict=False):
                mean_of_blocks(blocks.copy(), out)
            windows += len(column)
    rate = windows / (_cpu_s_of_ray() - before)
    ray.train.report({})
    return {"rate": rate}


def torch_rates(folder: Path) -> dict[str, float]:
    """Measure rival (e), a DataLoader over the product's map-style data set; floats on the CPU."""
    torch.set_num_threads(1)
    clips = draw_clips(folder, "720p")
    table = pd.DataFrame({"video_path": [str(clip) for clip in clips], "phase": "a"})
    dataset = OphNetSurgicalDataset(table, {"a": 0}, cache_dir=folder / "cache")

    def read(num_workers: int) -> int:
        sampler = RandomSampler(dataset, replacement=True, num_samples=TORCH_WINDOWS)
        loader = DataLoader(dataset, BATCH_SIZE, sampler=sampler, num_workers=num_workers)
        return sum(len(batch["label"]) for batch in loader)

    return rates({"no processes": lambda: read(0), "two processes": lambda: read(2)})


def local_rate() -> float:
    """Measure windows per CPU-second of the product's iterator, without Ray."""
    cache = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        loader = product_loader(write_cache(cache), 0, 1)
        product(loader)
        return rates({"product": lambda: product(loader)})["product"]
    finally:
        shutil.rmtree(cache)


def compare_reading(folder: Path) -> list[Figure]:
    """Compare the read stage with other readers."""
    torch_rate = torch_rates(folder)
    cache = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-"))
    try:
        manifest = write_cache(cache)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        with connect(Config().replace_flat(train_workers=2, num_workers=2)):
            one = fit(manifest, 1, cold=False, rivals=True)
            two = fit(manifest, 2, cold=False, rivals=False)
            cold = fit(manifest, 1, cold=True, rivals=False)["cold"]
            through_ray_data = ray_data_rate(manifest, cache / "parquet")
    finally:
        shutil.rmtree(cache)
    # absolute rates measure the machine, so only ratios have targets
    note = "windows per CPU-second, in Ray Train workers"
    rate = one["product"]
    return [
        Figure("read, 1 worker", rate, note),
        Figure("read, 2 workers, each", two["product"], note),
        Figure("read / bare loop of positional reads", rate / one["positions"], "", ">= 0.5"),
        Figure("read / bare loop over memory maps", rate / one["memory map"], "(d)"),
        Figure("read / Ray Data's iterator", rate / through_ray_data, "", ">= 4"),
        *(
            Figure(f"read / DataLoader over the data set, {name}", rate / other, "(e)")
            for name, other in torch_rate.items()
        ),
        Figure("cold: bytes read / bytes needed", cold, "", "<= 1.2"),
        *(
            Figure(f"share of time that training waits, {name}", one[name], "", "<= 0.02")
            for name in STEPS
        ),
    ]


def _cpu_s() -> float:
    return sum(os.times()[:4])


def _cpu_s_of_ray() -> float:
    """Return the CPU-seconds of the raylet and its descendants, alive or ended."""
    raylet = next(p for p in psutil.Process().parents() if "raylet" in p.name())
    family = [raylet, *raylet.children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in family)


def _read_bytes() -> int:
    return int(psutil.Process().io_counters().read_bytes)


def _work_20_ms() -> None:
    until_s = time.perf_counter() + 0.020
    while time.perf_counter() < until_s:
        np.add(_NUMBERS, 1.0, out=_NUMBERS)


_NUMBERS = np.zeros(1_000_000, dtype=np.float32)
STEPS: dict[str, Callable[[], None]] = {
    "20 ms per batch on a device": lambda: time.sleep(0.020),
    "20 ms per batch on this CPU": _work_20_ms,
}
