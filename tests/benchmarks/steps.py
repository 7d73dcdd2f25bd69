"""CPU time of a training step of a run in the command's process, against a bare loop over timm.

The bare loop has the same network and the same ingredients, from timm and torch: preparation of the
images, loss, clipped gradients, optimiser in groups, schedule and average of the weights. Its
batches lie in memory, while the run reads them from the cache, and writes log, status and curves.
"""

import json
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.config import Config
from ophnet_ray.data.augmentation import augment_images
from ophnet_ray.data.datasets import OphNetDataModule
from ophnet_ray.data.demo import make_demo
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.preprocessing import prepare_batch
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.recipe_config import RECIPES
from ophnet_ray.train import worker
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.worker_place import place_alone
from tests.benchmarks.measure import interleave
from tests.benchmarks.step_clock import StepClock
from tests.benchmarks.table import Figure

REPEATS = 5
STEPS = 12
BATCH_SIZE = 8
BACKBONES = {"resnet18": 224, "test_efficientnet": 128}
"""Image size of each: one of the smallest that is used, and one of timm's tests, far below."""


@dataclass(frozen=True)
class Workload:
    """A training of one epoch."""

    config: Config
    manifest: Manifest


def compare_steps(folder: Path) -> list[Figure]:
    """Measure CPU-seconds of a step under each recipe, both ways in turn, in forks."""
    torch.set_num_threads(1)
    figures = []
    for backbone, image_size in BACKBONES.items():
        manifest = read_manifest(folder.absolute() / "demo", image_size)
        for recipe, values in RECIPES.items():
            config = Config().replace_flat(
                backbone=backbone,
                pretrained=False,
                image_size=image_size,
                batch_size=BATCH_SIZE,
                max_epochs=1,
                storage_path=str(folder),
                **values,
            )
            work = Workload(config, manifest)
            ways = {"run": partial(time_run, work, folder), "bare": partial(time_bare_loop, work)}
            costs = interleave(ways, REPEATS)
            steps = {way: [cost.answer for cost in costs[way]] for way in ways}
            ratios = [ours / bare for ours, bare in zip(*steps.values(), strict=True)]
            ours_s, bare_s = (statistics.median(steps[way]) for way in ways)
            note = f"{ours_s * 1e3:.1f} and {bare_s * 1e3:.1f} CPU-ms; "
            note += f"ratios {min(ratios):.3f} to {max(ratios):.3f}"
            target = "<= 1.05" if backbone == "resnet18" else ""
            name = f"step: run / bare loop, {backbone}, recipe {recipe}"
            figures.append(Figure(name, statistics.median(ratios), note, target))
    return figures


def read_manifest(folder: Path, image_size: int) -> Manifest:
    """Return the demo's segments, decoded; of the training ones whole steps of one epoch."""
    data = OphNetDataModule(make_demo(folder), image_size=image_size, cache_dir=folder)
    data.setup()
    kept = data.manifest.of_split("train")[: STEPS * BATCH_SIZE]
    val = data.manifest.of_split("val")[:BATCH_SIZE]
    return Manifest(data.manifest.phases, data.manifest.windows, (*kept, *val))


def time_run(work: Workload, folder: Path) -> float:
    """Train as ``train.py`` does in its own process; return the CPU-seconds of a step."""
    run = RunDirectory(folder / f"steps-{time.time_ns()}")
    run.create()
    file = run.path / "steps.json"
    build = worker._build_trainer

    def build_with_clock(*args: Any) -> Any:
        trainer = build(*args)
        trainer.callbacks.insert(0, StepClock(file))
        return trainer

    worker._build_trainer = build_with_clock
    resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)
    loop = TrainLoopConfig(work.config, work.manifest, resources, run, "0")
    worker.run_worker(loop, place_alone(lambda record: None))
    ((cpu_s, _),) = json.loads(file.read_text())["epochs"]
    return cpu_s


def time_bare_loop(work: Workload) -> float:
    """Train over batches in memory; return the CPU-seconds of a step after the first one."""
    config, recipe = work.config, work.config.recipe
    size = config.windows.image_size
    num_classes = len(work.manifest.phases)
    network = SurgicalPhaseClassificationModel(
        num_classes, config.model.backbone, False, size, drop_path_rate=recipe.drop_path_rate
    )
    optimizer = create_optimizer_v2(
        network,
        opt=recipe.opt,
        lr=config.training.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    decay = recipe.model_ema_decay
    average = ModelEmaV3(network, decay=decay) if decay is not None else None
    shape = (BATCH_SIZE, size, size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.arange(BATCH_SIZE) % num_classes
    draws = torch.rand(BATCH_SIZE, 5) * 2 - 1
    started_s = 0.0
    for step in range(STEPS):
        values = augment_images(pixels, draws, 0.05, 0.1)
        image, mask = prepare_batch(values, network.mean, network.std, network.mask)
        logits = network(image, mask)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip_val)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update(network)
        if step == 0:
            started_s = time.process_time()
    return (time.process_time() - started_s) / (STEPS - 1)
