"""Training function of each Ray Train worker: fit the module on its share of the data."""

import logging
import os
import socket
import threading
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.loggers import Logger

from ophnet_ray.config import Config
from ophnet_ray.console import log_to
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.samplers import plan_training_steps
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.compilation import compile_network, name_compile_errors
from ophnet_ray.models.init_checkpoint import build_network
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.lightning_trainer import build_lightning_trainer
from ophnet_ray.models.losses import balance_phases
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.speed_config import CompileMode
from ophnet_ray.storage.local_copies import private_folder
from ophnet_ray.train.checkpoint_io import SyncedCheckpointIO
from ophnet_ray.train.epoch_callback import EpochCallback
from ophnet_ray.train.head_protocol import HeadLoopConfig
from ophnet_ray.train.head_worker import build_head_fit
from ophnet_ray.train.heartbeat import Heartbeat
from ophnet_ray.train.loggers import open_loggers
from ophnet_ray.train.memory_format import choose_memory_format
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.resume_point import ResumePoint, agree_on_resume_point
from ophnet_ray.train.rollback import RollbackError
from ophnet_ray.train.stop_poll import StopTraining
from ophnet_ray.train.stored_manifest import WorkerData, open_manifest
from ophnet_ray.train.tensorboard_callback import TensorBoardPictures, number_cases
from ophnet_ray.train.training_pictures import TrainingPictures
from ophnet_ray.train.worker_place import WorkerPlace

logger = logging.getLogger(__name__)


def run_worker(loop: TrainLoopConfig, place: WorkerPlace) -> dict[str, str]:
    """Train, or resume where the run stopped.

    Args:
        loop: What the driver sent.
        place: Place of this worker.

    Returns:
        ``failure``: why training stopped early, in one line; empty when it did not. ``stopped``:
        where training stopped because it was asked to; likewise.
    """
    run, rank, num_workers = loop.run, place.rank, place.num_workers
    loop = replace(loop, resources=replace(loop.resources, train_workers=num_workers))
    run.enter()
    log_to(run.worker_log(rank))
    threading.current_thread().name = f"train rank {rank}"  # in the dashboard's stack traces
    logger.info("rank %d is process %d on %s", rank, os.getpid(), socket.gethostname())
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning").handlers.clear()  # its lines are in the log, too
    torch.set_num_threads(loop.resources.threads_per_worker)
    data = open_manifest(loop.manifest, run)
    tell = logger.warning if loop.status is None else loop.status.warn
    data.columns.limit_copies(loop.config.run.max_copy_bytes, tell)
    heartbeat = Heartbeat(loop.status, rank)
    if rank == 0 and loop.status is not None:
        loop.status.begin(num_workers)
        if loop.resources.sizes:
            most = loop.resources.sizes[-1]
            loop.status.warn(f"training on {num_workers} of {most} workers")
    while True:
        try:
            return _fit_from_last_checkpoint(loop, data, place, heartbeat)
        except RollbackError as error:
            if error.rollback is None:
                return {"failure": str(error), "stopped": ""}
            logger.warning("%s", error)
            if rank == 0 and loop.status is not None:
                loop.status.warn(str(error))


def _fit_from_last_checkpoint(
    loop: TrainLoopConfig, data: WorkerData, place: WorkerPlace, heartbeat: Heartbeat
) -> dict[str, str]:
    """Build module and trainer, and fit; see ``run_worker``.

    Raises:
        RollbackError: A loss or gradient is not finite; the next call goes back.
    """
    run = loop.run
    resume = agree_on_resume_point(
        run.checkpoints, place.rank, place.broadcast, loop.resources.train_workers
    )
    for folder in resume.damaged if loop.status is not None else ():
        loop.status.warn(f"a damaged checkpoint is not used, and was moved to {folder}")
    resume_from = str(resume.last.file) if resume.last else None
    module, batches, callback = _build_fit(loop, data, resume, heartbeat, place)
    callbacks = [callback, *_build_pictures(loop, data.columns)]
    callbacks += [callback.skipper] if callback.skipper else []
    stopped = ""
    with open_loggers(loop.config, run) as loggers:
        trainer = _build_trainer(loop, callbacks, loggers, place)
        try:
            with heartbeat, name_compile_errors() if loop.config.speed.compile else nullcontext():
                trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
        except StopTraining as stop:
            stopped = str(stop)
            logger.info("stopped as asked, %s", stopped)
    callback.send_logs(trainer)
    return {"failure": callback.failure, "stopped": stopped}


class _Fit(NamedTuple):
    module: PhaseModule
    data: L.LightningDataModule
    callback: EpochCallback


def _build_fit(
    loop: TrainLoopConfig,
    data: WorkerData,
    resume: ResumePoint,
    heartbeat: Heartbeat,
    place: WorkerPlace,
) -> _Fit:
    """Build the fit of a frame model or temporal model on this worker's share of the data."""
    if isinstance(loop, HeadLoopConfig):
        return _Fit(*build_head_fit(loop, resume, heartbeat, place))
    training = loop.config.training
    resumed = read_payload(resume.last.file) if resume.last else None
    # the same first weights on every worker and in every rerun
    torch.manual_seed(training.seed)
    module = _build_module(loop, data.columns, resumed, place)
    batches = ManifestDataModule(
        data.columns,
        training.batch_size,
        training.seed,
        loop.resources.begun_with,
        sampling=loop.config.sampling,
        val_batch_size=_choose_val_batch_size(loop.config),
    )
    callback = EpochCallback(loop, resume.finished, heartbeat, place, data.summarise)
    return _Fit(module, batches, callback)


def _choose_val_batch_size(config: Config) -> int | None:
    """Return the windows of a validation step; None: more than those of a training step."""
    if config.speed.val_batch_size is not None:
        return config.speed.val_batch_size
    recipe = config.recipe
    keeps_activations = recipe.freeze in ("none", "bn") and not config.speed.grad_checkpointing
    # a step that keeps few of them may just fit into the memory
    return None if keeps_activations else config.training.batch_size


def _build_module(
    loop: TrainLoopConfig,
    columns: ManifestColumns,
    resumed: CheckpointPayload | None,
    place: WorkerPlace,
) -> SurgicalPhaseModule:
    config = loop.config
    num_classes = len(columns.phases)
    counts = columns.training_counts(config.sampling.sampler)
    network = build_network(config, columns.phases, resumed)
    module = SurgicalPhaseModule(
        num_classes,
        lr=config.training.lr,
        model=network,
        lr_schedule=config.training.lr_schedule,
        random_shift=config.training.random_shift,
        color_jitter=config.training.color_jitter,
        balance=balance_phases(counts, config.training.class_weights),
        num_val_cases=columns.count_cases("val"),
        on_nan=config.training.on_nan,
        recipe=config.recipe,
        augmentation=config.augmentation,
    )
    _speed_up(module, loop, place)
    return module


def _speed_up(module: SurgicalPhaseModule, loop: TrainLoopConfig, place: WorkerPlace) -> None:
    """Change how the network computes, once it has the layers that are trained."""
    network, speed = module.model, loop.config.speed
    if speed.grad_checkpointing:
        network.checkpoint_activations()
    if speed.sync_batchnorm and not place.is_alone:
        network.sync_batch_norms()
    memory_format = choose_memory_format(loop, network, place)
    if memory_format is not None:
        module.use_memory_format(memory_format)
    if speed.compile:
        folder = private_folder("compiled", loop.config.run.local_cache_dir)
        compile_network(network, folder, _choose_compile_mode(loop))


def _choose_compile_mode(loop: TrainLoopConfig) -> CompileMode:
    """Return the mode of the flag, or ``default`` with a warning where gradients are summed."""
    mode = loop.config.speed.compile_mode
    if mode == "default" or _count_accumulated(loop) == 1:
        return mode
    tell = logger.warning if loop.status is None else loop.status.warn
    tell(
        f"--compile_mode {mode}: not where gradients of several batches are summed, which CUDA "
        "graphs would overwrite; compiled in the mode default"
    )
    return "default"


def _count_accumulated(loop: TrainLoopConfig) -> int:
    """Return the number of batches whose gradients are summed for a step."""
    training, resources = loop.config.training, loop.resources
    steps = plan_training_steps(
        loop.num_train, training.batch_size, resources.train_workers, resources.begun_with
    )
    return training.accumulate_grad_batches * steps.num_accumulated


def _build_trainer(
    loop: TrainLoopConfig,
    callbacks: Sequence[L.Callback],
    loggers: Sequence[Logger],
    place: WorkerPlace,
) -> L.Trainer:
    training = loop.config.training
    if training.deterministic:
        # written before Lightning sets the variable, too
        cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        logger.info("only algorithms whose results repeat; CUBLAS_WORKSPACE_CONFIG=%s", cublas)
    num_accumulated = _count_accumulated(loop)
    strategy, environment = _build_place_parts(loop, place, num_accumulated)
    return build_lightning_trainer(
        replace(training, accumulate_grad_batches=num_accumulated),
        loop.resources.use_gpu,
        list(callbacks),
        loop.run.path,
        strategy=strategy,
        plugins=[SyncedCheckpointIO(), *environment],
        logger=list(loggers),
        gradient_clip_val=loop.config.recipe.gradient_clip_val,
    )


def _build_place_parts(
    loop: TrainLoopConfig, place: WorkerPlace, num_accumulated: int
) -> tuple[Any, list[Any]]:
    """Build Lightning's strategy and environment for the place of the worker."""
    if place.is_alone:
        return "auto", []
    # Ray Train takes a second of CPU to load, which a worker outside of it does without
    from ophnet_ray.train.group_strategy import build_group_environment, build_group_strategy

    strategy = build_group_strategy(loop.config.training.strategy, accumulates=num_accumulated > 1)
    return strategy, [build_group_environment()]


def _build_pictures(loop: TrainLoopConfig, columns: ManifestColumns) -> list[L.Callback]:
    """Build the callbacks for pictures of the windows; videos have none."""
    if isinstance(loop, HeadLoopConfig):
        return []
    cases = columns.cases_of("val")
    if loop.config.run.private:
        cases = number_cases(cases)
    return [
        TensorBoardPictures(columns.phases, cases),
        TrainingPictures(columns, loop.run),
    ]
