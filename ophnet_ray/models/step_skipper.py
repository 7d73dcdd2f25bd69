"""Lightning callback that skips optimiser steps whose gradients are not finite."""

from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from torch import Tensor

from ophnet_ray.models.phase_module import PhaseModule


class StepSkipper(CheckpointCallback):
    """Leave weights and batch-norm statistics as they are where a gradient is not finite.

    One damaged picture, or an overflow in half precision, else makes every weight NaN. All workers
    see the same sum of gradients, and skip the same steps. Lightning calls subclasses of its
    ``Checkpoint`` last, in their order: behind ``ExactResume``, the statistics are those restored.

    Attributes:
        num_skipped: Skipped steps of the epoch.
        num_steps: Optimiser steps of the epoch, skipped ones included.
    """

    def __init__(self) -> None:
        self.num_skipped = self.num_steps = 0
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from 0."""
        self.num_skipped = self.num_steps = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch-norm statistics from before the batches of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            if not isinstance(pl_module, PhaseModule):
                raise TypeError(f"expected a PhaseModule, not {type(pl_module).__name__}")
            buffers = (buffer for _, buffer in pl_module.statistics())
            self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the gradients away unless all are finite: the optimiser then does nothing."""
        self.num_steps += 1
        gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
        own = bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
        if trainer.strategy.reduce_boolean_decision(own, all=True):
            return
        self.num_skipped += 1
        for parameter in pl_module.parameters():
            parameter.grad = None
        for buffer, before in self._statistics:
            buffer.copy_(before)
