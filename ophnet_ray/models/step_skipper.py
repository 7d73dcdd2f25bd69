"""Lightning callback that skips optimiser steps whose gradients are not finite."""

from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from torch import Tensor

from ophnet_ray.models.exact_resume import module_of


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
            buffers = (buffer for _, buffer in module_of(pl_module).statistics())
            self._statistics = [(buffer, buffer.clone()) for buffer in buffers]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Leave the step out unless all gradients are finite."""
        self.num_steps += 1
        if not are_gradients_finite(trainer, pl_module):
            self.num_skipped += 1
            self.leave_out(pl_module)

    def leave_out(self, pl_module: L.LightningModule) -> None:
        """Take the gradients away, so that the optimiser does nothing; restore the statistics."""
        for parameter in pl_module.parameters():
            parameter.grad = None
        for buffer, before in self._statistics:
            buffer.copy_(before)

    @property
    def reason(self) -> str:
        """End of a line that says why steps were skipped."""
        return "were skipped: their loss or gradient was not finite"

    def counts(self) -> dict[str, int]:
        """Return what the record of the epoch says of skipped steps."""
        return {"skipped_steps": self.num_skipped}


def are_gradients_finite(trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
    """Return True on all workers if all gradients of all workers are finite."""
    gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
    own = bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
    return bool(trainer.strategy.reduce_boolean_decision(own, all=True))
