"""Lightning callback of a train worker: write checkpoints and scores, report them to the driver."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch

from ophnet_ray.config import DEFAULT_METRIC
from ophnet_ray.distributed.prometheus import TrainingMetrics
from ophnet_ray.metrics.classification import EPOCH_SCORE, epochs_since_best
from ophnet_ray.models.checkpoints import Checkpoint
from ophnet_ray.models.exact_resume import ExactResume, loader_of, module_of
from ophnet_ray.models.init_checkpoint import read_start
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    CheckpointPayload,
    Preprocessing,
    describe_settings,
)
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.models.step_skipper import StepSkipper
from ophnet_ray.models.training_summary import TrainingSummary
from ophnet_ray.train.epoch_counts import write_epoch_counts
from ophnet_ray.train.epoch_files import EpochFiles
from ophnet_ray.train.epoch_speed import EpochSpeed
from ophnet_ray.train.heartbeat import Heartbeat, Position
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.rollback import StepGuard
from ophnet_ray.train.stop_poll import StopPoll, StopTraining
from ophnet_ray.train.worker_place import WorkerPlace

logger = logging.getLogger(__name__)


class EpochCallback(ExactResume):
    """Checkpoints, ``metrics.jsonl`` and reports to Ray Train and the driver after each epoch.

    With ``--every_n_train_steps`` there are checkpoints inside epochs, too. They hold the state of
    each worker beside the model's, so that a resumed epoch ends with the same weights.

    Args:
        loop: What the driver sent to this worker.
        checkpoints: Checkpoints of the finished epochs, oldest first.
        heartbeat: Sends the position of this worker.
        place: Place of this worker.
        summarise: Returns the facts of the training that checkpoints keep.

    Attributes:
        history: Records of the finished epochs.
        skipper: Callback of ``--on_nan skip`` or ``rollback``; None otherwise.
        failure: Why training stopped early, in one line; empty when it did not.
    """

    def __init__(
        self,
        loop: TrainLoopConfig,
        checkpoints: Sequence[Checkpoint],
        heartbeat: Heartbeat,
        place: WorkerPlace,
        summarise: Callable[[], TrainingSummary],
    ) -> None:
        super().__init__(loop.config.training.seed)
        self._loop, self._place = loop, place
        self._summarise = summarise
        self._heartbeat = heartbeat
        self._run_metrics = TrainingMetrics(loop.run.path.name)
        self._speed = EpochSpeed(loop.config, len(loop.manifest.phases))
        self._status_sent_s = 0.0
        self.skipper = _build_skipper(loop)
        self._stop_poll = StopPoll(loop.status, place.read_notice)
        self._is_stop_wanted = self._is_checkpoint_wanted = False
        self.history: list[Mapping[str, float]] = []
        self._files = EpochFiles(loop.run, checkpoints)
        self.failure = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once where a checkpoint says that patience is over, besides the base class."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop |= self._is_patience_over()

    def _is_patience_over(self) -> bool:
        patience = self._loop.config.recipe.patience
        return patience is not None and epochs_since_best(self.history) >= patience

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps and the time of the epoch from here, besides what the base class does."""
        super().on_train_epoch_start(trainer, pl_module)
        self._run_metrics.start_epoch(trainer.global_rank)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report to the driver once per second; write a checkpoint when it is due; stop if asked.

        Raises:
            StopTraining: The driver asked to stop; the checkpoint is written.
        """
        step = batch_idx + 1
        is_last = step == trainer.num_training_batches
        self._run_metrics.end_step(self._loop.config.training.batch_size, is_last)
        if is_last:
            self._speed.end_steps(self._epoch_started_s)
        if trainer.is_global_zero and time.monotonic() - self._status_sent_s > 1:
            self._status_sent_s = time.monotonic()
            self._report_progress(
                epoch=trainer.current_epoch, step=step, num_steps=trainer.num_training_batches
            )
        answer = self._stop_poll.end_step(trainer)
        self._is_stop_wanted |= answer.is_stop_wanted
        self._is_checkpoint_wanted |= answer.is_stop_wanted or answer.is_node_leaving
        # no checkpoint holds the gradients that are accumulated between two optimiser steps
        if is_last or step % trainer.accumulate_grad_batches:
            return  # after the last step, the checkpoint of the epoch comes next
        every = self._loop.config.run.every_n_train_steps
        is_due = every and step % (every * trainer.accumulate_grad_batches) == 0
        if is_due or self._is_checkpoint_wanted:
            self._is_checkpoint_wanted = False
            if not _are_weights_finite(trainer):
                self._fail(trainer, "a weight")
                return
            self._write_unfinished(trainer, step)
        if self._is_stop_wanted:
            raise StopTraining(f"after step {step} of epoch {trainer.current_epoch + 1}")

    def _report_progress(self, **progress: Any) -> None:
        if self._loop.status is not None:
            self._loop.status.update(**progress)

    def _write_unfinished(self, trainer: L.Trainer, step: int) -> None:
        path = self._files.name_unfinished(trainer.current_epoch, step)
        self.save_inside_epoch(trainer, path)
        if trainer.is_global_zero:
            self._files.commit_unfinished(trainer, step)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the history and, inside an epoch, this worker's state."""
        payload = CheckpointPayload.from_dict(checkpoint[PAYLOAD_KEY], trainer.ckpt_path)
        self.history = list(payload.history)
        if trainer.is_global_zero:
            self._files.restore_metrics(self.history)
        self.restore(payload.workers, trainer.global_rank)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the position, besides what the base class does."""
        self._heartbeat.position = Position(trainer.current_epoch + 1, "training", batch_idx + 1)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the position."""
        self._heartbeat.position = Position(trainer.current_epoch + 1, "validation", batch_idx + 1)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the payload, with which the checkpoint needs no other file.

        All workers take part, and only the first one writes.
        """
        workers = self.gather_worker_states(trainer)
        if trainer.is_global_zero:
            payload = replace(
                self.describe_model(module_of(pl_module)),
                history=tuple(self.history),
                workers=workers,
            )
            checkpoint[PAYLOAD_KEY] = payload.to_dict()

    def describe_model(self, module: PhaseModule) -> CheckpointPayload:
        """Return the payload of a frame model, without history and states of workers.

        Raises:
            TypeError: The module is another.
        """
        if not isinstance(module, SurgicalPhaseModule):
            raise TypeError(f"expected a SurgicalPhaseModule, not {type(module).__name__}")
        loop = self._loop
        return CheckpointPayload(
            phases=tuple(loop.manifest.phases),
            preprocessing=Preprocessing.of_network(module.model, loop.config.windows),
            config=describe_settings(loop.config),
            data_hash=loop.data_hash,
            history=(),
            training=self.training,
            window_counts=module.window_counts,
            segment_counts=module.segment_counts,
            duration_counts=module.duration_counts,
            pooling=module.model.pooling,
            origin=self._origin,
        )

    def rank_by(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the score by which an epoch is ranked, where it is not ``val_macro_f1``."""
        metric = self._loop.config.training.epoch_metric
        return {} if metric == DEFAULT_METRIC else {EPOCH_SCORE: metrics[metric]}

    @cached_property
    def training(self) -> TrainingSummary:
        """Facts of the training, the same in all checkpoints of a run."""
        return self._summarise()

    @cached_property
    def _origin(self) -> Origin | None:
        start = read_start(self._loop.config, self._loop.manifest.phases)
        return start.describe_origin() if start else None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint and the record of the epoch; only the first worker writes files."""
        module = module_of(pl_module)
        module.epoch_metrics |= self.rank_by(module.epoch_metrics)
        metrics = dict(module.epoch_metrics)
        if not all(math.isfinite(value) for value in metrics.values()):
            self._fail(trainer, "the loss")
            return
        if not _are_weights_finite(trainer):
            self._fail(trainer, "a weight")
            return
        if self.skipper and not self._accept_skipped(trainer, self.skipper):
            return
        record = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **metrics,
            "lr": module.scheduled_lr,
            "seconds": round(time.monotonic() - self._epoch_started_s, 3),
            "data_wait_share": round(loader_of(trainer).wait_share, 4),
            **self.describe_speed(trainer, module),
            **(self.skipper.counts() if self.skipper else {}),
        }
        self.history = [*self.history, record]
        self._run_metrics.end_epoch(record)
        # every worker takes part: a sharded model is gathered from all of them
        trainer.save_checkpoint(self._files.name_epoch(trainer.current_epoch))
        self._commit_epoch(trainer, record)
        trainer.should_stop |= self._is_patience_over()
        self._is_checkpoint_wanted = False
        self._is_stop_wanted |= self._stop_poll.ask(trainer).is_stop_wanted
        if (
            self._is_stop_wanted
            and trainer.current_epoch + 1 < self._loop.config.training.max_epochs
        ):
            raise StopTraining(f"after epoch {trainer.current_epoch + 1}")

    def describe_speed(self, trainer: L.Trainer, module: PhaseModule) -> dict[str, float]:
        """Return the speed of the epoch's training steps, for its record."""
        speed = self._speed.measure(trainer, module.num_trained)
        shown = ", ".join(f"{name} {value}" for name, value in speed.items())
        logger.info("epoch %d: %s", trainer.current_epoch + 1, shown)
        return speed

    def _accept_skipped(self, trainer: L.Trainer, skipper: StepSkipper) -> bool:
        """Name skipped steps on the console; fail, and return False, if there was no other."""
        epoch, skipped, steps = trainer.current_epoch + 1, skipper.num_skipped, skipper.num_steps
        if skipped and trainer.is_global_zero and self._loop.status is not None:
            self._loop.status.warn(f"{skipped} of {steps} steps of epoch {epoch} {skipper.reason}")
        if skipped == steps:
            self._fail(trainer, "every gradient")
        return skipped < steps

    def _fail(self, trainer: L.Trainer, what: str) -> None:
        """Go back to a checkpoint with ``--on_nan rollback``; else end the training.

        Raises:
            RollbackError: See ``rollback``.
        """
        if isinstance(self.skipper, StepGuard):
            raise self.skipper.go_back(trainer)
        self.failure = (
            f"{what} is not finite in epoch {trainer.current_epoch + 1}; try a lower "
            f"{self._loop.lr_flag}"
        )
        trainer.should_stop = True

    def _commit_epoch(self, trainer: L.Trainer, record: Mapping[str, float]) -> None:
        """Give the checkpoint of the epoch its name, and report the epoch."""
        run = self._loop.run
        if not trainer.is_global_zero:
            self.send_logs(trainer)
            self._place.report(record, None)
            return
        module = module_of(trainer.lightning_module)
        if self._loop.keeps_counts:
            # before the checkpoint: each epoch that is not trained again has its counts
            write_epoch_counts(run, trainer.current_epoch, self.describe_model(module))
        written = self._files.commit_epoch(trainer, module.epoch_metrics)
        run.write_metrics(self.history)
        self.send_logs(trainer)
        self._report_progress(epoch=trainer.current_epoch + 1, step=0, metrics=record)
        # with a checkpoint Ray writes to the bucket, too, and fails after three attempts
        self._place.report(record, None if run.is_in_bucket else written.folder)

    def send_logs(self, trainer: L.Trainer) -> None:
        """Send this worker's log and the TensorBoard curves to the bucket of the run, if any."""
        run = self._loop.run
        run.send(run.worker_log(trainer.global_rank))
        if trainer.is_global_zero:
            run.send(run.tensorboard)


def _build_skipper(loop: TrainLoopConfig) -> StepSkipper | None:
    match loop.config.training.on_nan:
        case "skip":
            return StepSkipper()
        case "rollback":
            return StepGuard(loop.run, loop.config.run.every_n_train_steps, loop.lr_flag)
        case _:
            return None


def _are_weights_finite(trainer: L.Trainer) -> bool:
    """Return True on all workers if no worker holds a weight or statistic that is not finite."""
    tensors = [*trainer.lightning_module.parameters(), *trainer.lightning_module.buffers()]
    own = all(bool(torch.isfinite(each).all()) for each in tensors)
    return bool(trainer.strategy.reduce_boolean_decision(own, all=True))
