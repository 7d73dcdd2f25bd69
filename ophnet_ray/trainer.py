"""Config and manifest → a ``TorchTrainer`` whose workers fit the Lightning module."""

import logging
import os
import socket
import warnings
from collections.abc import Sequence

import lightning as L  # noqa: N812 - Lightning's own convention
import ray
import ray.train
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer

from ophnet_ray.checkpoints import Checkpoint, find_checkpoints, find_unfinished
from ophnet_ray.class_weights import balance_phases
from ophnet_ray.console import log_to
from ophnet_ray.datasets import OphNetDataModule
from ophnet_ray.epoch_report import EpochReport, TrainLoopConfig
from ophnet_ray.lightning_module import SurgicalPhaseModule
from ophnet_ray.model import SurgicalPhaseClassificationModel
from ophnet_ray.run_directory import RunDirectory
from ophnet_ray.tensorboard_pictures import TensorBoardPictures

MAX_WORKER_FAILURES = 3
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"

logger = logging.getLogger(__name__)


def build_trainer(loop: TrainLoopConfig) -> TorchTrainer:
    """The Ray Train trainer of a run; ``fit()`` starts it, or goes on where it stopped."""
    # Ray reads its snapshot of checkpoints back, and a torn one would stop every rerun; where to
    # go on is decided from the verified checkpoints themselves.
    (loop.run.path / RAY_SNAPSHOT).unlink(missing_ok=True)
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type] # Ray's hint forgets that it may return something
        train_loop_config={"loop": loop},
        scaling_config=ScalingConfig(
            num_workers=loop.resources.train_workers, use_gpu=loop.resources.use_gpu
        ),
        run_config=RunConfig(
            name=loop.run.path.name,
            storage_path=str(loop.run.path.parent),
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(),
        ),
    )


def train_loop(loop_config: dict[str, TrainLoopConfig]) -> dict[str, str]:
    """What each train worker runs.

    Returns:
        ``failure``: why training stopped early, in one line; empty when it did not.
    """
    loop = loop_config["loop"]
    config, run = loop.config, loop.run
    rank = ray.train.get_context().get_world_rank()
    log_to(run.logs / f"train-rank-{rank}.log")
    logger.info("rank %d is process %d on %s", rank, os.getpid(), socket.gethostname())
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(loop.resources.threads_per_worker)
    # the same first weights on every worker and in every rerun
    torch.manual_seed(config.training.seed)
    module = _build_module(loop)
    data = OphNetDataModule.from_manifest(
        loop.manifest,
        config.training.batch_size,
        config.training.seed,
    )
    report = EpochReport(loop)
    trainer = prepare_trainer(_build_lightning_trainer(loop, report))
    report.checkpoints = find_checkpoints(run.checkpoints)
    resume_from = _find_resume_point(report.checkpoints, run)
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    return {"failure": report.failure}


def _find_resume_point(finished: Sequence[Checkpoint], run: RunDirectory) -> str | None:
    """The checkpoint inside the first epoch that is not finished, else that of the last one."""
    epoch = finished[-1].epoch + 1 if finished else 0
    unfinished = find_unfinished(run.checkpoints, epoch)
    last = unfinished or (finished[-1] if finished else None)
    if last is None:
        return None
    done = f"step {last.step} of epoch {epoch + 1}" if last.step else f"epoch {epoch}"
    logger.info("going on after %s from %s", done, last.folder)
    return str(last.file)


def _build_module(loop: TrainLoopConfig) -> SurgicalPhaseModule:
    config, manifest = loop.config, loop.manifest
    num_classes = len(manifest.phases)
    return SurgicalPhaseModule(
        num_classes,
        lr=config.training.lr,
        model=SurgicalPhaseClassificationModel.from_config(
            num_classes, config.model, config.windows.image_size
        ),
        mask=config.model.mask,
        lr_schedule=config.training.lr_schedule,
        random_shift=config.training.random_shift,
        color_jitter=config.training.color_jitter,
        balance=balance_phases(manifest.label_counts("train"), config.training.class_weights),
        num_val_cases=len(manifest.cases_of("val")),
    )


def _build_lightning_trainer(loop: TrainLoopConfig, report: "EpochReport") -> L.Trainer:
    training = loop.config.training
    manifest = loop.manifest
    pictures = TensorBoardPictures(manifest.phases, manifest.cases_of("val"))
    precision = training.precision
    if precision == "auto" and loop.resources.use_gpu:
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if has_bf16 else "16-mixed"
    elif precision == "auto":
        precision = "32-true"
    return L.Trainer(
        max_epochs=training.max_epochs,
        accelerator="gpu" if loop.resources.use_gpu else "cpu",
        devices="auto" if loop.resources.use_gpu else 1,
        # validation goes through the same wrapper; syncing buffers there would wait for ever when
        # one worker is a step ahead, and would mix the batch statistics of the workers
        strategy=RayDDPStrategy(broadcast_buffers=False),
        plugins=[RayLightningEnvironment()],
        precision=precision,
        accumulate_grad_batches=training.accumulate_grad_batches,
        logger=TensorBoardLogger(loop.run.path, name="", version="tensorboard"),
        log_every_n_steps=10,
        callbacks=[report, pictures],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(loop.run.path),
    )
