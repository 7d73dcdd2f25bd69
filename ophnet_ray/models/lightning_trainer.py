"""Lightning trainer with the settings of a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from ophnet_ray.config import Precision, TrainingConfig

ChosenPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


def build_lightning_trainer(
    training: TrainingConfig,
    use_gpu: bool,
    callbacks: Sequence[L.Callback],
    folder: Path,
    *,
    strategy: Strategy | str = "auto",
    plugins: Sequence[Any] = (),
    logger: Sequence[Logger] = (),
    gradient_clip_val: float | None = None,
) -> L.Trainer:
    """Build the trainer of a worker; one of ``callbacks`` writes the checkpoints.

    Args:
        training: The optimisation.
        use_gpu: False for the CPU.
        callbacks: See above.
        folder: For everything that Lightning writes.
        strategy: Lightning's own; ``auto``: one process on one device.
        plugins: Lightning's own.
        logger: Loggers of the curves.
        gradient_clip_val: Largest norm of the gradient of a step; None: any.
    """
    return L.Trainer(
        max_epochs=training.max_epochs,
        accelerator="gpu" if use_gpu else "cpu",
        # a worker in a group sees its GPU alone
        devices="auto" if use_gpu and strategy != "auto" else 1,
        strategy=strategy,
        plugins=list(plugins),
        precision=choose_precision(training.precision, use_gpu),
        accumulate_grad_batches=training.accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val,
        # steps have one shape: cuDNN may try its algorithms in the first one
        benchmark=True if use_gpu and not training.deterministic else None,
        # Lightning also turns off that cuDNN chooses its fastest algorithm by trying, and sets the
        # variable for cuBLAS, for which it is late where something has started CUDA before
        deterministic=training.deterministic,
        logger=list(logger),
        log_every_n_steps=10,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )


def choose_precision(precision: Precision, use_gpu: bool) -> ChosenPrecision:
    """Return Lightning's precision for a device; ``auto`` depends on what the device supports."""
    if precision != "auto":
        return precision
    if not use_gpu:
        return "32-true"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "16-mixed"
