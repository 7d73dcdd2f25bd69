"""Training steps of the product, without Ray, and of a bare timm loop."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import timm
import torch
from torch.autograd import DeviceType
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from torch.profiler import ProfilerActivity, profile, schedule

from ophnet_ray.config import Config, TrainingConfig
from ophnet_ray.data.augmentation import augment_images
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.preprocessing import prepare_batch
from ophnet_ray.models.backbone import input_options
from ophnet_ray.models.exact_resume import ExactResume, loader_of
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.lightning_trainer import build_lightning_trainer, choose_precision
from ophnet_ray.models.memory_format import StepShape
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.throughput import count_training_flops
from ophnet_ray.recipe_config import RECIPES, RecipeName
from tests.gpu.workload import PHASES

GIB = 2**30
PROFILE_AFTER, PROFILED_STEPS = 5, 5
"""Steps before the profile, and those in it."""


def settings_of(recipe: RecipeName) -> Config:
    """Return the settings of ``train.py`` with a recipe, for random weights."""
    return Config().replace_flat(recipe=recipe, **RECIPES[recipe])


def build_module(
    backbone: str,
    image_size: int,
    memory_format: torch.memory_format | None = None,
    recipe: RecipeName = "seed",
) -> SurgicalPhaseModule:
    """Build the product's module with random weights, the same each time."""
    torch.manual_seed(0)
    own = settings_of(recipe)
    model = SurgicalPhaseClassificationModel(len(PHASES), backbone, False, image_size)
    module = SurgicalPhaseModule(
        len(PHASES), model=model, lr_schedule=own.training.lr_schedule, recipe=own.recipe
    )
    if memory_format is not None:
        module.use_memory_format(memory_format)
    return module


def fit(
    module: SurgicalPhaseModule,
    manifest: Manifest,
    training: TrainingConfig,
    callback: ExactResume,
    folder: Path,
    device: torch.device,
    ckpt_path: Path | None = None,
) -> None:
    """Train as a train worker does, on one device; it ends on the CPU.

    Validation segments are scored after each epoch, if there are any.
    """
    trainer = build_lightning_trainer(
        training,
        device.type == "cuda",
        [callback],
        folder,
        gradient_clip_val=module.recipe.gradient_clip_val,
    )
    validates = any(item.segment.split == "val" for item in manifest.items)
    kind = ManifestDataModule if validates else TrainingWindows
    data = kind(manifest, training.batch_size, training.seed)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)


class TrainingWindows(ManifestDataModule):
    """Training windows of a manifest, without validation."""

    def val_dataloader(self) -> list[Any]:
        """Return no loader."""
        return []


class Clock:
    """Time of training steps after a warm-up, until there are enough of them.

    Steps on a GPU are only queued when a loop goes on: the clock waits for the device when it
    starts, half-way, and when it stops.
    """

    def __init__(self, warmup_steps: int, max_steps: int, seconds: float) -> None:
        self._warmup_steps, self._max_steps, self._seconds = warmup_steps, max_steps, seconds
        self._steps = -warmup_steps
        self._started_s = self._took_s = 0.0
        self._half: tuple[int, float] | None = None

    def tick(self) -> bool:
        """Count a step; return True after the last one."""
        self._steps += 1
        if self._steps == 0:
            self._started_s = _time_when_idle()
        if self._steps <= 0:
            return False
        passed_s = time.perf_counter() - self._started_s
        if self._half is None and (
            2 * passed_s >= self._seconds or 2 * self._steps >= self._max_steps
        ):
            self._half = self._steps, _time_when_idle() - self._started_s
        is_over = passed_s >= self._seconds
        if is_over or self._steps >= self._max_steps:
            self._took_s = _time_when_idle() - self._started_s
            return True
        return False

    @property
    def steps_per_s(self) -> float:
        """Steps per second."""
        return self._steps / self._took_s

    @property
    def steadiness(self) -> float | None:
        """Steps per second of the second half ÷ those of the first; None of fewer than two."""
        if self._half is None or self._half[0] in (0, self._steps):
            return None
        steps, took_s = self._half
        return (self._steps - steps) / (self._took_s - took_s) / (steps / took_s)


class TimedFit(ExactResume):
    """Fit that stops with its clock; ``wait_share``: see ``WindowLoader``.

    Args:
        clock: The clock.
        on_step: Called after each step.
    """

    def __init__(self, clock: Clock, on_step: Callable[[], None] = lambda: None) -> None:
        super().__init__(seed=0)
        self._clock, self._on_step = clock, on_step
        self.wait_share = float("nan")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        self._on_step()
        if not trainer.should_stop and self._clock.tick():
            self.wait_share = loader_of(trainer).wait_share
            trainer.should_stop = True


def time_ours(
    module: SurgicalPhaseModule,
    manifest: Manifest,
    batch_size: int,
    clock: Clock,
    folder: Path,
    device: torch.device,
    recipe: RecipeName = "seed",
) -> dict[str, float | None]:
    """Measure the product's training step, fed by the cache."""
    _reset_peak()
    callback = TimedFit(clock)
    training = replace(settings_of(recipe).training, batch_size=batch_size, max_epochs=1)
    fit(module, manifest, training, callback, folder, device)
    return {
        "images_s": clock.steps_per_s * batch_size,
        "wait_share": callback.wait_share,
        "steadiness": clock.steadiness,
        "peak_gib": _peak_gib(),
    }


def profile_ours(
    module: SurgicalPhaseModule,
    manifest: Manifest,
    batch_size: int,
    folder: Path,
    device: torch.device,
) -> tuple[float, str]:
    """Return the seconds of a step in which kernels run, and tables of all operations."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    plan = schedule(wait=PROFILE_AFTER, warmup=1, active=PROFILED_STEPS, repeat=1)
    training = TrainingConfig(batch_size=batch_size, max_epochs=1)
    clock = Clock(0, PROFILE_AFTER + PROFILED_STEPS + 2, float("inf"))
    with profile(activities=kinds, schedule=plan) as profiler:
        fit(module, manifest, training, TimedFit(clock, profiler.step), folder, device)
    averages = profiler.key_averages()
    # what ran on the GPU itself; operators and annotations hold the same time once more
    kernels = [
        each
        for each in averages
        if each.device_type == DeviceType.CUDA and not each.is_user_annotation
    ]
    kernels_s = sum(each.self_device_time_total for each in kernels) / PROFILED_STEPS / 1e6
    orders = ("self_cpu_time_total", "self_device_time_total")
    tables = [averages.table(sort_by=order, row_limit=40) for order in orders]
    return kernels_s, "\n".join(tables)


def build_timm_model(backbone: str, image_size: int) -> torch.nn.Module:
    """Build the timm model by itself, with its own classifier."""
    options = input_options(backbone, image_size)
    model: torch.nn.Module = timm.create_model(backbone, num_classes=len(PHASES), **options)
    return model


def time_bare(
    model: torch.nn.Module, shape: StepShape, memory_format: torch.memory_format, clock: Clock
) -> dict[str, float | None]:
    """Measure a plain loop over a timm model, with one batch that lies on the device."""
    model = model.to(shape.device, memory_format=memory_format).train()
    images = torch.rand(shape.batch_size, 3, shape.image_size, shape.image_size)
    images = images.to(shape.device, memory_format=memory_format)
    return _time_loop(model, lambda: (images,), shape, clock)


def time_plain(
    module: SurgicalPhaseModule, shape: StepShape, memory_format: torch.memory_format, clock: Clock
) -> dict[str, float | None]:
    """Measure a plain loop with the ingredients of the product's step, without its machinery.

    Pixels lie on the device; each step moves and recolours them, takes the masks, and trains the
    product's network.
    """
    device, size, training = shape.device, shape.image_size, TrainingConfig()
    model = module.model.to(device, memory_format=memory_format).train()
    pixels = torch.randint(0, 256, (shape.batch_size, size, size, 3), dtype=torch.uint8)
    pixels = pixels.to(device).permute(0, 3, 1, 2)
    draws = (2 * torch.rand(shape.batch_size, 5) - 1).to(device)

    def prepare() -> tuple[torch.Tensor, torch.Tensor]:
        values = augment_images(pixels, draws, training.random_shift, training.color_jitter)
        image, mask = prepare_batch(values, model.mean, model.std, model.mask)
        return image.contiguous(memory_format=memory_format), mask

    return _time_loop(model, prepare, shape, clock)


def _time_loop(
    model: torch.nn.Module,
    prepare: Callable[[], tuple[torch.Tensor, ...]],
    shape: StepShape,
    clock: Clock,
) -> dict[str, float | None]:
    _reset_peak()
    device, batch_size = shape.device, shape.batch_size
    torch.backends.cudnn.benchmark = device.type == "cuda"
    labels = torch.arange(batch_size, device=device) % len(PHASES)
    fused = device.type == "cuda"
    optimizer = torch.optim.Adam(model.parameters(), lr=TrainingConfig.lr, fused=fused)
    while True:
        inputs = prepare()
        with autocast(device):
            loss = F.cross_entropy(model(*inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if clock.tick():
            break
    peak_gib = _peak_gib()
    # the next measurement has the memory for itself
    optimizer.zero_grad()
    model.cpu()
    return {
        "images_s": clock.steps_per_s * batch_size,
        "steadiness": clock.steadiness,
        "peak_gib": peak_gib,
    }


def count_compilations() -> dict[str, int]:
    """Return what torch has compiled in this process so far, and found in its cache on disk."""
    from torch._dynamo.utils import counters  # a second of CPU, where nothing compiles

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "cache_hits": counters["inductor"]["fxgraph_cache_hit"],
        "cache_misses": counters["inductor"]["fxgraph_cache_miss"],
    }


def autocast(device: torch.device) -> torch.autocast:
    """Return the context of the precision that training chooses for the device."""
    precision = choose_precision("auto", device.type == "cuda")
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "32-true")


def repeats(
    module: SurgicalPhaseModule, manifest: Manifest, folder: Path, device: torch.device
) -> bool:
    """Train three steps twice under ``--deterministic``; return True if the weights are equal."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    training = TrainingConfig(batch_size=4, max_epochs=1, deterministic=True)
    found = []
    for _ in range(2):
        module.load_state_dict(before)
        fit(module, manifest, training, TimedFit(Clock(0, 3, float("inf"))), folder, device)
        found.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
    first, second = found
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def count_flops(backbone: str, image_size: int) -> int:
    """Count the operations of a training step of the timm model per image."""
    with torch.device("meta"):
        model = build_timm_model(backbone, image_size)
        image = torch.empty(1, 3, image_size, image_size)
    return count_training_flops(model, image)


def time_matrix_product(rows: int, device: torch.device) -> float:
    """Measure the operations per second of a product of square matrices, in bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix = torch.randn(rows, rows, dtype=dtype, device=device)
    for _ in range(3):
        matrix @ matrix
    started_s = _time_when_idle()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * rows**3 / (_time_when_idle() - started_s)


def _time_when_idle() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None
