"""Training steps of the product, without Ray, and of a bare timm loop."""

import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import timm
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from torch.utils.flop_counter import FlopCounterMode

from ophnet_ray.config import TrainingConfig
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.models.backbone import input_options
from ophnet_ray.models.exact_resume import ExactResume, loader_of
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.lightning_trainer import build_lightning_trainer, choose_precision
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from tests.gpu.workload import PHASES

GIB = 2**30


def build_module(backbone: str, image_size: int) -> SurgicalPhaseModule:
    """Build the product's module with random weights, the same each time."""
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(len(PHASES), backbone, False, image_size)
    return SurgicalPhaseModule(len(PHASES), model=model)


def fit(
    module: SurgicalPhaseModule,
    manifest: Manifest,
    training: TrainingConfig,
    callback: ExactResume,
    folder: Path,
    device: torch.device,
    ckpt_path: Path | None = None,
) -> None:
    """Train as a train worker does, on one device, without validation; it ends on the CPU."""
    trainer = build_lightning_trainer(training, device.type == "cuda", [callback], folder)
    data = ManifestDataModule(manifest, training.batch_size, training.seed)
    trainer.fit(
        module,
        train_dataloaders=data.train_dataloader(),
        ckpt_path=ckpt_path,
        weights_only=True,
    )


class Clock:
    """Time of training steps after a warm-up, until there are enough of them.

    Steps on a GPU are only queued when a loop goes on: the clock waits for the device when it
    starts and when it stops.
    """

    def __init__(self, warmup_steps: int, max_steps: int, seconds: float) -> None:
        self._warmup_steps, self._max_steps, self._seconds = warmup_steps, max_steps, seconds
        self._steps = -warmup_steps
        self._started_s = self._took_s = 0.0

    def tick(self) -> bool:
        """Count a step; return True after the last one."""
        self._steps += 1
        if self._steps == 0:
            self._started_s = _time_when_idle()
        if self._steps <= 0:
            return False
        is_over = time.perf_counter() - self._started_s >= self._seconds
        if is_over or self._steps >= self._max_steps:
            self._took_s = _time_when_idle() - self._started_s
            return True
        return False

    @property
    def steps_per_s(self) -> float:
        """Steps per second."""
        return self._steps / self._took_s


class TimedFit(ExactResume):
    """Fit that stops with its clock; ``wait_share``: see ``WindowLoader``."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(seed=0)
        self._clock = clock
        self.wait_share = float("nan")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
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
) -> dict[str, float | None]:
    """Measure the product's training step, fed by the cache."""
    _reset_peak()
    callback = TimedFit(clock)
    training = TrainingConfig(batch_size=batch_size, max_epochs=1)
    fit(module, manifest, training, callback, folder, device)
    return {
        "images_s": clock.steps_per_s * batch_size,
        "wait_share": callback.wait_share,
        "peak_gib": _peak_gib(),
    }


def time_bare(
    backbone: str, image_size: int, batch_size: int, clock: Clock, device: torch.device
) -> dict[str, float | None]:
    """Measure a plain loop over a timm model, with one batch that lies on the device."""
    _reset_peak()
    options = input_options(backbone, image_size)
    model = timm.create_model(backbone, num_classes=len(PHASES), **options)
    model = model.to(device, memory_format=torch.channels_last).train()
    images = torch.rand(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % len(PHASES)
    optimizer = torch.optim.Adam(model.parameters(), lr=TrainingConfig.lr)
    while True:
        with autocast(device):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if clock.tick():
            return {"images_s": clock.steps_per_s * batch_size, "peak_gib": _peak_gib()}


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
    """Count the operations of a training step per image: three times those of a forward pass.

    Of a backward pass torch's counter takes a depthwise convolution for a full one.
    """
    with torch.device("meta"):
        options = input_options(backbone, image_size)
        model = timm.create_model(backbone, num_classes=len(PHASES), **options).eval()
        image = torch.empty(1, 3, image_size, image_size)
    # the counter knows no fused attention without a device
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_only, FlopCounterMode(display=False) as counter:
        model(image)
    return 3 * int(counter.get_total_flops())


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
