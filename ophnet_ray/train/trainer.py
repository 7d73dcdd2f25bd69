"""The ``TorchTrainer`` of a run: training on workers of Ray Train."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    RunConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.v2._internal.constants import WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR

from ophnet_ray.distributed.process_group import BoundTorchConfig
from ophnet_ray.errors import TrainingError
from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.quick_import import quick_import
from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES, conclude, describe, find_root
from ophnet_ray.train.elastic import ScaledTrainer
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunResult
from ophnet_ray.train.stored_manifest import share_manifest

logger = logging.getLogger(__name__)


def fit_run(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> RunResult:
    """Train on the workers, or resume where they stopped; return and keep the result.

    Raises:
        DivergedError: The loss is not finite.
        TrainingError: The workers failed.
        StopTraining: The workers have stopped as asked.
    """
    loop = replace(loop, manifest=share_manifest(loop.manifest, loop.run))
    return conclude(loop, _fit_while_it_advances(loop, callbacks).return_value)


def _fit_while_it_advances(loop: TrainLoopConfig, callbacks: Sequence[UserCallback]) -> Any:
    """Return Ray Train's result, after any number of failures with new checkpoints between them.

    Ray counts the failures of a whole run. A run of days on machines that come and go would use
    them up, though each time it advances. Ray repeats nothing when its controller dies, or when
    workers die before the training begins: here, each of these is one failure, too.

    Raises:
        TrainingError: Training failed again and again without a new checkpoint.
    """
    run, num_failures = loop.run, 0
    while True:
        before = newest_position(run.checkpoints)
        try:
            return build_trainer(loop, callbacks).fit()
        except (TrainingFailedError, RayActorError) as error:
            logger.exception("training failed")
            run.enter()  # rank 0 may have worked on another machine
            is_advancing = newest_position(run.checkpoints) > before
            num_failures = 0 if is_advancing else num_failures + 1
            is_of_workers = isinstance(error, WorkerGroupError)
            cause = (_named_failure(loop.status) if is_of_workers else "") or _root_cause(error)
            # Ray has already started the workers again, and named them
            if num_failures > (0 if is_of_workers else MAX_WORKER_FAILURES):
                raise TrainingError(f"{cause}; see {run.logs}") from error
            if loop.status is not None and not is_of_workers:
                loop.status.warn(f"{cause}; training resumes from the last checkpoint")


def build_trainer(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> ScaledTrainer:
    """Build the Ray Train trainer of a run; ``fit()`` starts it, or resumes where it stopped."""
    # Ray reads its snapshot of checkpoints back, and a torn one would stop every rerun. The
    # verified checkpoints themselves decide where a run resumes.
    loop.run.delete_ray_snapshot()
    # a stopped process for which nobody waits in a collective is found by Ray's own question
    os.environ[WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR] = str(loop.config.run.collective_timeout_s)
    folder, filesystem = loop.run.shared_location()
    # Ray's hint for callbacks is that of Train V1
    watchers: list[Any] = [_WarnOfFailures(loop.status), *callbacks]
    return ScaledTrainer(
        train_loop,
        loop,
        torch_config=BoundTorchConfig(
            deterministic=loop.config.training.deterministic,
            timeout_s=loop.config.run.collective_timeout_s,
        ),
        run_config=RunConfig(
            name=loop.run.name,
            storage_path=str(Path(folder).parent),
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(),
            callbacks=watchers,
        ),
    )


class _WarnOfFailures(UserCallback):
    """Callback that names each failure of a worker on the user's console.

    Args:
        status: A ``RemoteStatus``; None where nobody watches.
    """

    def __init__(self, status: Any) -> None:
        self._status = status

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Name ranks and causes."""
        if self._status is None:
            return
        causes = {rank: describe(find_root(error)) for rank, error in worker_exceptions.items()}
        self._status.fail(causes)


def train_loop(loop_config: dict[str, TrainLoopConfig]) -> dict[str, str]:
    """Run on each worker, called by Ray Train; see ``worker.run_worker``."""
    # Lightning and timm take four seconds of CPU to load: the processes that only start workers
    # and wait for them do without
    with quick_import():
        from ophnet_ray.train.worker import run_worker
        from ophnet_ray.train.worker_place import place_in_group

    return run_worker(loop_config["loop"], place_in_group())


def _named_failure(status: Any) -> str:
    """Return the line that names the workers of the last failure; empty where nobody watches."""
    answer = status.get() if status is not None else None
    return str(answer["failure"]) if answer is not None else ""


def _root_cause(error: TrainingFailedError | RayActorError) -> str:
    """Return the one line that says why the workers, or their controller, failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    return describe(find_root(cause))
