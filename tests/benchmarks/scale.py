"""Costs of a data set of many times OphNet, from its table to the checkpoints of its training.

There are no videos and no pixels: what is measured is the bookkeeping around them. Each figure
has its slope: the power of ten by which it grows where the data grow tenfold.
"""

import gc
import pickle
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import phase_vocabulary, read_table
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.task_plan import plan_tasks
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.loader import SEGMENT_WEIGHT
from ophnet_ray.data.manifest import build_manifest
from ophnet_ray.data.manifest_file import ManifestFile
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.garbage import pause_collections
from ophnet_ray.models.cell_sums import CellSums
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.train.epoch_callback import EpochCallback
from ophnet_ray.train.heartbeat import Heartbeat
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.stored_manifest import WorkerData, open_manifest, store_manifest
from ophnet_ray.train.worker_place import place_alone
from tests.benchmarks.measure import measure
from tests.benchmarks.scale_cache import measure_caches
from tests.benchmarks.scale_data import NUM_PHASES, make_entries, write_table
from tests.benchmarks.table import Figure, describe_growth

SCALES = (1, 10, 100)
DECODE_WORKERS, BATCH_SIZE, VAL_BATCH_SIZE = 4, 32, 128
GOAL_SCALE = 100
GOALS = {
    "the driver, from the CSV to the file: CPU-s": "<= 60",
    "the driver, peak above imports: MB": "<= 2000",
    "a worker above its base: MB": "<= 200",
    "a worker above its base: bytes per segment": "<= 100",
    "a checkpoint's training state: CPU-s to build and write": "<= 0.5",
    "the manifest: bytes per segment": "<= 64",
}
"""Targets at ``GOAL_SCALE``."""
Costs = dict[str, float]


def measure_scales(folder: Path, scales: Sequence[int] = SCALES) -> list[Figure]:
    """Measure each scale; a driver, a worker and a checkpoint have a process of their own each."""
    torch.set_num_threads(1)
    found: dict[str, dict[int, float]] = {}
    for scale in scales:
        driver = measure(lambda scale=scale: time_driver(folder, scale))
        stored = driver.answer.pop("stored")
        worker = measure(lambda stored=stored: time_worker(folder, stored)).answer
        checkpoint = measure(lambda stored=stored: time_checkpoint(folder, stored)).answer
        peak = {
            "the driver, from the CSV to the file: CPU-s": sum(
                value for name, value in driver.answer.items() if name.endswith(": CPU-s")
            ),
            "the driver, peak above imports: MB": driver.answer.pop("peak"),
        }
        for name, value in (driver.answer | peak | worker | checkpoint).items():
            found.setdefault(name, {})[scale] = value
    figures = [
        describe_growth(name, scale, own, GOALS.get(name, "") if scale == GOAL_SCALE else "")
        for name, own in found.items()
        for scale in own
    ]
    return figures + measure_caches(folder, scales)


class _Clock:
    """CPU-seconds of functions, by name."""

    def __init__(self) -> None:
        self.costs: Costs = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Call a function and keep its CPU-seconds."""
        gc.collect()
        started_s = time.process_time()
        answer = work()
        self.costs[f"{name}: CPU-s"] = time.process_time() - started_s
        return answer


def resident_mb() -> float:
    """Return the memory of this process, mapped files included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024 / 1e6


def time_driver(folder: Path, scale: int) -> dict[str, object]:
    """Measure the way from the table to what a worker is sent."""
    with pause_collections():  # as `read_run_data`, `fill_cache` and `store_manifest` do
        return _time_driver(folder, scale)


def _time_driver(folder: Path, scale: int) -> dict[str, object]:
    base, clock = resident_mb(), _Clock()
    path = write_table(folder, scale)
    table = clock.time("reading the CSV", lambda: read_table(path))
    segments = clock.time("splitting", lambda: assign_splits(table.segments, 0.2, 0))
    keys = KeyColumns(segments.hash_ids(), segments.hash_ids())
    clock.time(
        "planning tasks", lambda: plan_tasks(segments, keys, Config().windows, DECODE_WORKERS)
    )
    entries = make_entries(len(segments), str(folder / "blocks"))
    phases = phase_vocabulary(segments)
    manifest, _ = clock.time(
        "joining segments and entries",
        lambda: build_manifest(segments, entries, phases, Config().windows),
    )
    file = folder / f"manifest-{scale}.arrow"
    stored = clock.time("writing the manifest", lambda: store_manifest(manifest, file))
    return {
        **clock.costs,
        "the manifest: bytes per segment": file.stat().st_size / len(segments),
        "sent to a worker: bytes": float(len(pickle.dumps(stored))),
        "stored": stored,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - base,
    }


def time_worker(folder: Path, stored: ManifestFile) -> Costs:
    """Measure a worker that reads all windows of an epoch, without their pixels."""
    clock = _Clock()
    gc.collect()
    base = resident_mb()
    run = RunDirectory(folder / "run")
    data = clock.time("a worker opens the manifest", lambda: open_manifest(stored, run))
    batches = ManifestDataModule(data.columns, BATCH_SIZE, 0, val_batch_size=VAL_BATCH_SIZE)

    train = clock.time("building the loader", batches.train_dataloader)
    clock.time("the windows of the first step", lambda: next(train.sampler.steps()))
    for loader in (train, batches.val_dataloader()):
        for step in loader.sampler.steps():
            rows = step.windows[step.windows[:, 0] >= 0, 0]
            for segment in rows.tolist():
                # touches all that a reader touches, and marks the blocks as read
                loader._segments.read_entry(segment)
            loader._checked_in[loader._segments.first_blocks[rows]] = 1
    used_mb = resident_mb() - base
    num_segments = sum(stored.num_segments.values())
    return {
        **clock.costs,
        "a worker above its base: MB": used_mb,
        "a worker above its base: bytes per segment": used_mb * 1e6 / num_segments,
    }


def time_checkpoint(folder: Path, stored: ManifestFile) -> Costs:
    """Measure what a checkpoint holds beside the weights: the second one of a run."""
    run = RunDirectory(folder / "run")
    data, clock = open_manifest(stored, run), _Clock()
    network = SurgicalPhaseClassificationModel(NUM_PHASES, "test_resnet", False, 224)
    base = resident_mb()
    module = count_validation(data, network, clock)
    counts_mb = resident_mb() - base
    config = Config().replace_flat(backbone="test_resnet", pretrained=False)
    loop = TrainLoopConfig(config, stored, Resources(1, False, 1, 1), run, "0")
    callback = EpochCallback(
        loop, [], Heartbeat(None, 0), place_alone(lambda record: None), data.summarise
    )
    clock.time("facts of the training, once per run", lambda: callback.training)
    file = folder / "state.ckpt"
    clock.time(
        "a checkpoint's training state: CPU-s to build and write",
        lambda: torch.save(callback.describe_model(module).to_dict(), file),
    )
    name = "a checkpoint's training state: CPU-s to build and write"
    clock.costs[name] = clock.costs.pop(f"{name}: CPU-s")
    return {
        **clock.costs,
        "counts by case: MB": counts_mb,
        "a checkpoint's training state: MB": file.stat().st_size / 1e6,
    }


def count_validation(
    data: WorkerData, network: SurgicalPhaseClassificationModel, clock: _Clock
) -> SurgicalPhaseModule:
    """Return a module that has counted a validation; one window in three is predicted wrongly."""
    num_cases = data.columns.count_cases("val")
    module = SurgicalPhaseModule(NUM_PHASES, model=network, num_val_cases=num_cases)
    val = data.columns.of_split("val")
    batches = ManifestDataModule(data.columns, BATCH_SIZE, 0, val_batch_size=VAL_BATCH_SIZE)
    rng = np.random.default_rng(0)
    sums = CellSums(2, torch.device("cpu"))

    def count() -> torch.Tensor:
        for step in batches.val_dataloader().sampler.steps():
            rows = step.windows[step.windows[:, 0] >= 0, 0]
            labels, cases = (each[rows].astype(np.int64) for each in (val.labels, val.cases))
            wrong = rng.integers(0, NUM_PHASES, len(rows))
            predicted = np.where(rng.random(len(rows)) < 1 / 3, wrong, labels)
            cells = torch.from_numpy((cases * NUM_PHASES + labels) * NUM_PHASES + predicted)
            sums.add(cells, torch.ones_like(cells), torch.full_like(cells, SEGMENT_WEIGHT // 3))
        return sums.sum()

    cells, counts, weights = clock.time("counting a validation", count).numpy().T
    module.window_counts = replace(module.window_counts, cells=cells, counts=counts)
    module.segment_counts = replace(module.window_counts, counts=weights / SEGMENT_WEIGHT)
    return module
