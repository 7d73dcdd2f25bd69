"""Lightning's loggers for the curves of a run: TensorBoard, MLflow, Weights & Biases."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ophnet_ray.config import Config
from ophnet_ray.hashing import hash_ids
from ophnet_ray.models.payload import describe_settings
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.train.run_directory import RunDirectory

PROJECT = "ophnet-ray"
"""Name of the experiment in MLflow, of the project in W&B."""
LOCK_FILE = ".mlflow.lock"
"""Lock of the database beside the runs."""


@contextmanager
def open_loggers(config: Config, run: RunDirectory) -> Iterator[list[Logger]]:
    """Build the loggers of a run, and end them; a resumed run adds to the same curves.

    A run of W&B is that of its process until it is finished: Lightning would log the next training
    of the process to it.
    """
    loggers = [_build_logger(name, config, run) for name in config.run.loggers]
    exit_code = 1
    try:
        yield loggers
        exit_code = 0
    except SystemExit:  # as Ray Tune ends a trial that falls behind
        exit_code = 0
        raise
    finally:
        _finish_wandb(loggers, exit_code)


def _finish_wandb(loggers: Sequence[Logger], exit_code: int) -> None:
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=exit_code)


def _build_logger(name: str, config: Config, run: RunDirectory) -> Logger:
    match name:
        case "mlflow":
            return _build_mlflow(config, run)
        case "wandb":
            return _build_wandb(config, run)
        case _:
            return TensorBoardLogger(run.path, name="", version=run.tensorboard.name)


def _build_mlflow(config: Config, run: RunDirectory) -> Logger:
    """Log to the server of ``MLFLOW_TRACKING_URI``, else to a database beside the runs."""
    database = Path(config.run.storage_path) / "mlflow.db"
    server = os.environ.get("MLFLOW_TRACKING_URI")
    id_file = run.path / "mlflow_run_id"
    # MLflow cannot create its tables twice at once, as folds, trials and workers would
    with nullcontext() if server else exclusive(database.with_name(LOCK_FILE)):
        logger = MLFlowLogger(
            experiment_name=PROJECT,
            run_name=run.name_below(config.run.storage_path),
            tracking_uri=server or f"sqlite:///{database}",
            run_id=id_file.read_text() if id_file.exists() else None,
        )
        logger.log_hyperparams(describe_settings(config))
    # only the first worker has a run; the others log nothing
    if isinstance(logger.run_id, str):
        id_file.write_text(logger.run_id)
        run.send(id_file)
    return logger


def _build_wandb(config: Config, run: RunDirectory) -> Logger:
    """Log to the account of ``WANDB_API_KEY``; with ``WANDB_MODE=offline`` to the run's folder."""
    name = run.name_below(config.run.storage_path)
    logger = WandbLogger(
        name=name,
        project=PROJECT,
        save_dir=run.path,
        id=f"{int(hash_ids([run.location])[0]):016x}",
        resume="allow",
    )
    logger.log_hyperparams(describe_settings(config))
    return logger
