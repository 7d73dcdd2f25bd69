"""The ``TorchTrainer`` of a run, and its failures in one line."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.tune import TuneError

from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.distributed.process_group import BoundTorchConfig
from ophnet_ray.errors import DivergedError, TrainingError, UserError
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory, RunResult

MAX_WORKER_FAILURES = 3

logger = logging.getLogger(__name__)


def fit_run(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> RunResult:
    """Train on the workers, or resume where they stopped; return and keep the result.

    Raises:
        DivergedError: The loss is not finite.
        TrainingError: The workers failed.
    """
    run = loop.run
    try:
        result: Any = build_trainer(loop, callbacks).fit()
    except TrainingFailedError as error:
        logger.exception("training failed")
        raise TrainingError(f"{_root_cause(error)}; see {run.logs}") from error
    if failure := result.return_value["failure"]:
        raise DivergedError(f"{failure}; see {run.logs}")
    run.enter()  # rank 0 may have worked on another machine
    best = best_checkpoint(find_checkpoints(run.checkpoints))
    answer = RunResult(str(best.file.relative_to(run.path)), best.epoch + 1, best.metrics)
    run.write_result(answer)
    return answer


def build_trainer(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> TorchTrainer:
    """Build the Ray Train trainer of a run; ``fit()`` starts it, or resumes where it stopped."""
    # Ray reads its snapshot of checkpoints back, and a torn one would stop every rerun. The
    # verified checkpoints themselves decide where a run resumes.
    loop.run.delete_ray_snapshot()
    folder, filesystem = loop.run.shared_location()
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type] # Ray's hint forgets that it may return something
        train_loop_config={"loop": loop},
        torch_config=BoundTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=loop.resources.train_workers,
            use_gpu=loop.resources.use_gpu,
            placement_strategy=loop.config.run.placement_strategy,
        ),
        run_config=RunConfig(
            name=loop.run.name,
            storage_path=str(Path(folder).parent),
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(),
            callbacks=list(callbacks),  # type: ignore[arg-type] # its stub is that of Train V1
        ),
    )


def train_loop(loop_config: dict[str, TrainLoopConfig]) -> dict[str, str]:
    """Run on each worker, called by Ray Train; see ``worker.run_worker``."""
    # Lightning and timm take four seconds of CPU to load: the processes that only start workers
    # and wait for them do without
    from ophnet_ray.train.worker import run_worker

    return run_worker(loop_config["loop"])


@contextmanager
def failures_in_one_line(run: RunDirectory, what: str) -> Iterator[None]:
    """Log an error that ends a run, and reduce it to one line.

    Raises:
        UserError: As it was raised inside.
        TrainingError: Likewise, or for errors of Ray and of the disk.
    """
    try:
        yield
    except (UserError, TrainingError) as error:
        logger.error("%s", error)
        raise
    except (RayError, TuneError, OSError) as error:
        logger.exception("the %s broke off", what)
        raise TrainingError(f"{_describe(error)}; see {run.logs}") from error


def _root_cause(error: TrainingFailedError) -> str:
    """Return the one line that says why the workers failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return _describe(cause)


def _describe(error: BaseException) -> str:
    """Return an exception's type and the cause in its message."""
    return f"{type(error).__name__}: {find_cause(error) or 'no message'}"
