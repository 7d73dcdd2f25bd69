"""Base of the Lightning modules: optimiser, schedule, and sums over the workers of a run."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from ophnet_ray.config import LRSchedule


class PhaseModule(L.LightningModule):
    """Module of a fit that resumes exactly, whatever it classifies: windows or whole videos.

    Args:
        lr: Learning rate of Adam.
        lr_schedule: ``constant``, or ``one_cycle``: up to ``lr`` and down to almost 0 over all
            steps, see "Super-Convergence" (arXiv:1708.07120).

    Attributes:
        train_sums: Sum of the losses of this worker in the epoch so far, and their number, (2,).
        epoch_metrics: Scores of the last epoch over all workers, each a sum divided once.
        train_sums: (sum of losses, batches or windows) of this worker in the epoch so far, (2,).
    """

    def __init__(self, lr: float, lr_schedule: LRSchedule) -> None:
        super().__init__()
        self.lr, self.lr_schedule = lr, lr_schedule
        self.epoch_metrics: dict[str, float] = {}
        self.train_sums: Tensor = torch.zeros(2)
        self.train_sums = torch.zeros(2)

    @abstractmethod
    def worker_state(self) -> dict[str, Tensor]:
        """Return this worker's own state inside an epoch."""

    @abstractmethod
    def load_worker_state(self, state: dict[str, Tensor]) -> None:
        """Resume from the state that ``worker_state`` returned."""

    def statistics(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors of the batch-norm statistics; by default there are none."""
        yield from ()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return Adam over all parameters that get a gradient, and the schedule of its rate."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=self.lr)
        total_steps = int(self.trainer.estimated_stepping_batches)
        scheduler: LRScheduler
        if self.lr_schedule == "one_cycle":
            scheduler = OneCycleLR(optimizer, self.lr, total_steps, cycle_momentum=False)
        else:
            scheduler = ConstantLR(optimizer, factor=1.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all workers."""
        summed: Any = self.trainer.strategy.reduce(values, reduce_op="sum")
        return torch.as_tensor(summed)

    def scale_of_group(self, batch_idx: int) -> float:
        """Return the factor with which the gradients of each optimiser step add up to a mean.

        Lightning divides each loss by ``accumulate_grad_batches``, also in the last group of an
        epoch, which may have fewer batches.
        """
        num_batches, size = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        rest = num_batches % size
        return size / rest if rest and batch_idx >= num_batches - rest else 1.0
