"""Rollbacks of a run: going back to a checkpoint where a loss or gradient is not finite.

The first time, training repeats the steps since the last checkpoint: a fault of the machine is then
gone, and the weights are those of a run without it. If the same step is not finite again, the cause
lies in the weights or the data. Training then leaves out the steps from the last checkpoint that
was due to this step, as "PaLM" (arXiv:2204.02311, section 5.1) does around spikes of the loss.

The steps that are left out are kept in ``rollbacks.json`` of the run. They are a function of the
step and of ``--every_n_train_steps``, whatever else is killed or stopped.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from torch import Tensor

from ophnet_ray.models.checkpoints import find_inside_epoch
from ophnet_ray.models.exact_resume import module_of
from ophnet_ray.models.step_skipper import StepSkipper, are_gradients_finite
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import DamagedFileError, dump_record, read_record
from ophnet_ray.train.run_directory import RunDirectory

MAX_ROLLBACKS = 6
"""Rollbacks of one epoch after which training stops: three steps that stay not finite."""
_NOT_FINITE = "a loss, a gradient or a weight is not finite"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rollback:
    """A step whose loss or gradient was not finite; epoch and steps count from 0.

    Attributes:
        epoch: Its epoch.
        step: Its optimiser step in the epoch.
        first: First of the steps that are left out, of which ``step`` is the last; None if all are
            trained again.
    """

    epoch: int
    step: int
    first: int | None = None

    def describe(self) -> str:
        """Return the line for the user's console."""
        here = f"{_NOT_FINITE} in step {self.step + 1} of epoch {self.epoch + 1}"
        if self.first is None:
            return f"{here}: training repeats the steps since the last checkpoint"
        steps = "it" if self.first == self.step else f"steps {self.first + 1} to {self.step + 1}"
        return f"{here} again: training goes back, and leaves out {steps}"


class RollbackError(Exception):
    """A loss or gradient that is not finite; the message is one line.

    Attributes:
        rollback: The step, and what is done about it; None after too many rollbacks.
    """

    def __init__(self, message: str, rollback: Rollback | None = None) -> None:
        super().__init__(message)
        self.rollback = rollback


def read_rollbacks(run: RunDirectory) -> tuple[Rollback, ...]:
    """Read the rollbacks of a run, oldest first; none, with a line in the log, of a damaged file.

    What is not finite once more is then found once more.
    """
    if not run.rollbacks.exists():
        return ()
    try:
        return read_record(
            run.rollbacks,
            lambda values: tuple(Rollback(**each) for each in values["rollbacks"]),
            "the steps in it are found again",
        )
    except DamagedFileError as error:
        logger.warning("%s", error)
        return ()


def write_rollbacks(run: RunDirectory, rollbacks: Sequence[Rollback]) -> None:
    """Keep the rollbacks; delete the checkpoints that hold steps which are now left out."""
    last = rollbacks[-1]
    if last.first is not None:
        # deleted before the file is written: after a kill between the two, no run resumes from them
        for checkpoint in find_inside_epoch(run.checkpoints, last.epoch):
            if last.first < checkpoint.step <= last.step:
                shutil.rmtree(checkpoint.folder)
        run.send_checkpoints()
    values = {"rollbacks": [asdict(each) for each in rollbacks]}
    write_atomically(run.rollbacks, dump_record(values))
    run.send(run.rollbacks)


def plan_rollback(
    before: Sequence[Rollback], epoch: int, step: int, interval: int | None
) -> Rollback | None:
    """Return what to do about a step that is not finite; None after too many of them.

    Args:
        before: Earlier rollbacks of the run.
        epoch: Of the step, from 0.
        step: Optimiser step of the epoch, from 0.
        interval: Optimiser steps between checkpoints inside an epoch; None for none.
    """
    same_epoch = [each for each in before if each.epoch == epoch]
    if len(same_epoch) >= MAX_ROLLBACKS:
        return None
    if not any(each.step == step for each in same_epoch):
        return Rollback(epoch, step)
    return Rollback(epoch, step, step - step % interval if interval else 0)


class StepGuard(StepSkipper):
    """Callback that interrupts the fit where a loss or gradient is not finite.

    Steps that earlier rollbacks left out change nothing: no weight, statistic or sum.

    Args:
        run: Folder of the run.
        interval: See ``plan_rollback``.
        lr_flag: Flag of the learning rate, for messages.
    """

    def __init__(self, run: RunDirectory, interval: int | None, lr_flag: str = "--lr") -> None:
        super().__init__()
        self._run, self._interval, self._lr_flag = run, interval, lr_flag
        self._rollbacks: tuple[Rollback, ...] = ()
        self._of_epoch: list[Rollback] = []
        self._left_out: frozenset[int] = frozenset()
        self._epoch, self._step = -1, 0
        self._sums = self._is_loss_finite = torch.empty(0)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count nothing here: the counts are those of the rollbacks."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let all workers know the rollbacks so far."""
        own = read_rollbacks(self._run) if trainer.is_global_zero else ()
        self._rollbacks = trainer.strategy.broadcast(own)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the sums, too, from before the batches of a step."""
        if trainer.current_epoch != self._epoch:
            # not in on_train_epoch_start, which Lightning leaves out at a resume inside an epoch
            self._enter_epoch(trainer)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._step = batch_idx // trainer.accumulate_grad_batches
            self._sums = module_of(pl_module).train_sums.clone()
            self._is_loss_finite = torch.ones((), dtype=torch.bool, device=pl_module.device)

    def _enter_epoch(self, trainer: L.Trainer) -> None:
        """Note the steps of the epoch that are left out, also those before a resume inside it."""
        self._epoch = trainer.current_epoch
        self._of_epoch = [each for each in self._rollbacks if each.epoch == self._epoch]
        self._left_out = frozenset(
            step
            for each in self._of_epoch
            if each.first is not None
            for step in range(each.first, each.step + 1)
        )
        self.num_skipped = len(self._left_out)
        self.num_steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss; the answer stays on the device until the step."""
        self._is_loss_finite &= torch.isfinite(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Leave the step out if an earlier rollback says so; else look at loss and gradients.

        Raises:
            RollbackError: One of them is not finite, on whatever worker; all workers raise it.
        """
        if self._step in self._left_out:
            self.leave_out(pl_module)
        elif not self._is_step_finite(trainer, pl_module):
            raise self.go_back(trainer)

    def leave_out(self, pl_module: L.LightningModule) -> None:
        """Restore the sums, besides what the base class does."""
        super().leave_out(pl_module)
        module_of(pl_module).train_sums = self._sums

    @property
    def reason(self) -> str:
        """End of a line that says why steps were skipped."""
        return "were left out: the loss or a gradient was not finite, twice at the same step"

    def counts(self) -> dict[str, int]:
        """Return the rollbacks of the epoch, and the number of steps that they left out."""
        return super().counts() | {"rollbacks": len(self._of_epoch)}

    def _is_step_finite(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        is_finite = bool(
            trainer.strategy.reduce_boolean_decision(bool(self._is_loss_finite), all=True)
        )
        # a scaler of gradients in half precision skips steps itself until they do not overflow
        has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
        return is_finite and (has_scaler or are_gradients_finite(trainer, pl_module))

    def go_back(self, trainer: L.Trainer) -> RollbackError:
        """Keep the rollback from the last step, and return the error that ends the fit.

        All workers call this together.
        """
        epoch = trainer.current_epoch
        if len(self._left_out) == self.num_steps:
            return RollbackError(
                f"rollbacks leave out all {self.num_steps} steps of epoch {epoch + 1}; try a lower "
                f"{self._lr_flag}, and checkpoints inside the epoch (--every_n_train_steps)"
            )
        rollback = plan_rollback(self._rollbacks, epoch, self._step, self._interval)
        if rollback is None:
            return RollbackError(
                f"{_NOT_FINITE} in step {self._step + 1} of epoch "
                f"{epoch + 1}, after {MAX_ROLLBACKS} rollbacks in it; try a lower {self._lr_flag}"
            )
        if trainer.is_global_zero:
            write_rollbacks(self._run, [*self._rollbacks, rollback])
        return RollbackError(rollback.describe(), rollback)
