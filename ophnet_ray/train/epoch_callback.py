"""In a train worker: keep checkpoints and scores, and tell the driver."""

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import ray.train
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from ray.train import CheckpointUploadMode

from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.distributed.prometheus import TrainingMetrics
from ophnet_ray.hashing import hash_ids
from ophnet_ray.models.checkpoints import (
    Checkpoint,
    commit_checkpoint,
    prune_checkpoints,
    prune_unfinished,
    temporary_file,
)
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    CheckpointPayload,
    Preprocessing,
    WorkerState,
    summarise_training_segments,
)
from ophnet_ray.train.protocol import TrainLoopConfig


class EpochCallback(CheckpointCallback):
    """After each epoch: checkpoint, ``metrics.jsonl``, a report to Ray Train and to the driver.

    Inside an epoch, every so many steps, a checkpoint from which it goes on to the same weights:
    it holds the state of each worker beside the model's.

    A subclass of Lightning's ``Checkpoint``, since those run after the module's own hooks.
    """

    def __init__(self, loop: TrainLoopConfig) -> None:
        self._loop = loop
        self._run_metrics = TrainingMetrics(loop.run.path.name)
        self._epoch_started_s = self._status_sent_s = 0.0
        self._is_inside_epoch = False
        self._worker_state: WorkerState | None = None
        self.history: list[Mapping[str, float]] = []
        self.checkpoints: list[Checkpoint] = []
        self.failure = ""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the randomness of the epoch (dropout) where a restart would start it too."""
        seed = self._loop.config.training.seed
        state = hash_ids(["dropout"], seed, trainer.current_epoch, trainer.global_rank)
        torch.manual_seed(int(state[0] >> 1))
        self._epoch_started_s = time.monotonic()
        self._run_metrics.start_epoch(trainer.global_rank)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tell the driver, once a second; keep a checkpoint when it is time."""
        step = batch_idx + 1
        is_last = step == trainer.num_training_batches
        self._run_metrics.end_step(self._loop.config.training.batch_size, is_last)
        if trainer.is_global_zero and time.monotonic() - self._status_sent_s > 1:
            self._status_sent_s = time.monotonic()
            self._tell(epoch=trainer.current_epoch, step=step)
        every = self._loop.config.run.every_n_train_steps
        # between two optimiser steps there are gradients that no checkpoint holds
        if every and step % (every * trainer.accumulate_grad_batches) == 0:
            self._keep_unfinished(trainer, step)

    def _tell(self, **progress: Any) -> None:
        if self._loop.status is not None:
            self._loop.status.update.remote(**progress)

    def _keep_unfinished(self, trainer: L.Trainer, step: int) -> None:
        if step >= trainer.num_training_batches:
            return  # the epoch's own checkpoint comes next
        folder, epoch = self._loop.run.checkpoints, trainer.current_epoch
        self._is_inside_epoch = True
        trainer.save_checkpoint(temporary_file(folder, epoch, step))
        self._is_inside_epoch = False
        if trainer.is_global_zero:
            commit_checkpoint(folder, epoch, {}, step)
            # the one before stays, in case that this one is torn
            prune_unfinished(folder, keep=2)
            self._loop.run.send_checkpoints()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over history and, inside an epoch, this worker's state."""
        payload = CheckpointPayload.from_dict(checkpoint[PAYLOAD_KEY], trainer.ckpt_path)
        self.history = list(payload.history)
        if payload.workers:
            self._worker_state = payload.workers[trainer.global_rank]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go to the position inside the epoch.

        Lightning does it itself, but for modules that ask for the number of steps: then it has made
        the loader before it knows the position.
        """
        if self._worker_state is not None:
            _loader_of(trainer).load_state_dict(self._worker_state.loader)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with this worker's own state: Lightning starts no epoch in its middle."""
        if self._worker_state is not None:
            _module_of(pl_module).load_worker_state(self._worker_state.module)
            _set_random_state(self._worker_state.random)
            self._epoch_started_s = time.monotonic() - self._worker_state.seconds
            self._worker_state = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what makes the checkpoint stand alone: phases, preprocessing, settings, scores."""
        loop, module = self._loop, _module_of(pl_module)
        windows = loop.config.windows
        payload = CheckpointPayload(
            phases=tuple(loop.manifest.phases),
            preprocessing=Preprocessing(
                mean=tuple(module.model.mean.tolist()),
                std=tuple(module.model.std.tolist()),
                mask=loop.config.model.mask,
                image_size=windows.image_size,
                window_size=windows.window_size,
                stride=windows.stride,
            ),
            config=loop.config.to_flat(),
            data_hash=loop.data_hash,
            history=tuple(self.history),
            training=summarise_training_segments(loop.manifest),
            confusion_by_case=module.confusion_by_case,
            workers=self._gather_worker_states(trainer, module),
        )
        checkpoint[PAYLOAD_KEY] = payload.to_dict()

    def _gather_worker_states(
        self, trainer: L.Trainer, module: SurgicalPhaseModule
    ) -> tuple[WorkerState, ...]:
        """Of all workers, by rank; none at the end of an epoch, when they are alike."""
        if not self._is_inside_epoch:
            return ()
        state = WorkerState(
            module=module.worker_state(),
            loader=_loader_of(trainer).state_dict(),
            random=_random_state(),
            seconds=time.monotonic() - self._epoch_started_s,
        )
        states: list[Any] = [state] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, state)
        return tuple(states)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the epoch. Runs on every worker; only the first one writes."""
        module = _module_of(pl_module)
        metrics = dict(module.epoch_metrics)
        if not all(math.isfinite(value) for value in metrics.values()):
            self.failure = (
                f"the loss is not finite in epoch {trainer.current_epoch + 1}; try a lower --lr"
            )
            trainer.should_stop = True
            return
        record = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            **metrics,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": round(time.monotonic() - self._epoch_started_s, 3),
            "data_wait_share": round(_loader_of(trainer).wait_share, 4),
        }
        self.history = [*self.history, record]
        self._run_metrics.end_epoch(record)
        run = self._loop.run
        # every worker takes part: a sharded model is gathered from all
        trainer.save_checkpoint(temporary_file(run.checkpoints, trainer.current_epoch))
        if not trainer.is_global_zero:
            self.send_logs(trainer)
            ray.train.report(record)
            return
        written = commit_checkpoint(run.checkpoints, trainer.current_epoch, metrics)
        self.checkpoints = prune_checkpoints([*self.checkpoints, written])
        prune_unfinished(run.checkpoints, keep=0)
        run.send_checkpoints()
        run.write_metrics(self.history)
        self.send_logs(trainer)
        self._tell(epoch=trainer.current_epoch + 1, step=0, metrics=record)
        if run.is_in_bucket:
            # a checkpoint makes Ray note it in the bucket, and it gives up after three attempts
            ray.train.report(record)
            return
        ray.train.report(
            record,
            checkpoint=ray.train.Checkpoint.from_directory(str(written.folder)),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def send_logs(self, trainer: L.Trainer) -> None:
        """Send this worker's log, and the curves, to the bucket that the run lies in, if any."""
        run = self._loop.run
        run.send(run.worker_log(trainer.global_rank))
        if trainer.is_global_zero:
            run.send(run.tensorboard)


def _module_of(pl_module: L.LightningModule) -> SurgicalPhaseModule:
    if not isinstance(pl_module, SurgicalPhaseModule):
        raise TypeError(f"expected a SurgicalPhaseModule, not {type(pl_module).__name__}")
    return pl_module


def _loader_of(trainer: L.Trainer) -> WindowLoader:
    loader = trainer.train_dataloader
    if not isinstance(loader, WindowLoader):
        raise TypeError(f"expected a WindowLoader, not {type(loader).__name__}")
    return loader


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
