"""Base of the Lightning modules: optimiser, schedule, and sums over the workers of a run."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from ophnet_ray.config import LRSchedule
from ophnet_ray.models.cell_sums import CellSums
from ophnet_ray.models.optimizer import (
    ParameterSettings,
    build_optimizer,
    build_schedule,
    fit_state_to_weights,
    scheduled_lr,
)
from ophnet_ray.recipe_config import RecipeConfig

_RECIPE = RecipeConfig()


class PhaseModule(L.LightningModule):
    """Module of a fit that resumes exactly, whatever it classifies: windows or whole videos.

    Args:
        lr: Learning rate.
        lr_schedule: Course of ``lr``, see ``optimizer.build_schedule``.
        recipe: Its optimiser and warm-up; Adam by default.

    Attributes:
        epoch_metrics: Scores of the last epoch over all workers, each a sum divided once.
        planned_parameters: Settings of the parameters in the optimiser, by name.
        num_trained: Windows or batches of the last epoch over all workers.
        train_sums: (sum of losses, batches or windows) of this worker in the epoch so far, (2,).
    """

    def __init__(self, lr: float, lr_schedule: LRSchedule, recipe: RecipeConfig = _RECIPE) -> None:
        super().__init__()
        self.lr, self.lr_schedule, self.recipe = lr, lr_schedule, recipe
        self.planned_parameters: dict[str, ParameterSettings] = {}
        self.epoch_metrics: dict[str, float] = {}
        self.num_trained = 0
        self.train_sums: Tensor = torch.zeros(2)

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
        """Return the optimiser of all parameters that get a gradient, and its rate's schedule."""
        optimizer = build_optimizer(
            self.named_parameters(),
            self.lr,
            self.recipe.opt,
            self.planned_parameters,
            may_fuse=self._may_fuse,
        )
        scheduler = build_schedule(
            optimizer,
            self.lr_schedule,
            int(self.trainer.estimated_stepping_batches),
            self.recipe.warmup_ratio,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @property
    def _may_fuse(self) -> bool:
        # a fused optimiser unscales the gradients itself, after they were clipped
        return getattr(self.trainer.precision_plugin, "scaler", None) is None

    def on_train_start(self) -> None:
        """Fit the state of the optimiser, which a checkpoint may have brought, to the weights."""
        for optimizer in self.trainer.optimizers:
            fit_state_to_weights(optimizer, may_fuse=self._may_fuse)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale a gradient whose norm is larger than ``gradient_clip_val`` down to it.

        Lightning's own refuses fused optimisers in mixed precision, with bf16, too, where nothing
        is to unscale.
        """
        if gradient_clip_val is None:
            return
        if gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(f"gradient_clip_algorithm {gradient_clip_algorithm}: only norm")
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    @property
    def scheduled_lr(self) -> float:
        """Learning rate of the next step, without the factors of layers."""
        return scheduled_lr(self.trainer.optimizers[0])

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all workers."""
        summed: Any = self.trainer.strategy.reduce(values, reduce_op="sum")
        return torch.as_tensor(summed)

    def gather_cells(self, sums: CellSums) -> NDArray[np.int64]:
        """Return ``CellSums.sum`` over all workers, the same on each of them."""
        # workers exchange tensors of their own device alone
        own = sums.sum().to(self.device)
        num_workers = self.trainer.world_size
        if num_workers == 1:
            return own.cpu().numpy()
        sizes = torch.zeros(num_workers, dtype=torch.int64, device=own.device)
        sizes[self.trainer.global_rank] = len(own)
        sizes = self.sum_over_workers(sizes)
        # and of one size
        padded = own.new_zeros((int(sizes.max()), own.shape[1]))
        padded[: len(own)] = own
        parts: Any = self.all_gather(padded)
        whole = CellSums(own.shape[1] - 1, own.device)
        for part, size in zip(parts, sizes.tolist(), strict=True):
            whole.add(*part[:size].unbind(dim=1))
        return whole.sum().cpu().numpy()

    def scale_of_group(self, batch_idx: int) -> float:
        """Return the factor with which the gradients of each optimiser step add up to a mean.

        Lightning divides each loss by ``accumulate_grad_batches``, also in the last group of an
        epoch, which may have fewer batches.
        """
        num_batches, size = self.trainer.num_training_batches, self.trainer.accumulate_grad_batches
        rest = num_batches % size
        return size / rest if rest and batch_idx >= num_batches - rest else 1.0
