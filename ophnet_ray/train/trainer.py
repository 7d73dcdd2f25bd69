"""The ``TorchTrainer`` of a run, and its failures in one line."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.v2._internal.constants import WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR
from ray.tune import TuneError

from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.distributed.process_group import BoundTorchConfig
from ophnet_ray.errors import DivergedError, TrainingError, UserError
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints, newest_position
from ophnet_ray.quick_import import quick_import
from ophnet_ray.train.elastic import ScaledTrainer
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.train.stop_poll import StopTraining

MAX_WORKER_FAILURES = 3
"""Failures of workers after which training ends, if there was no new checkpoint."""

logger = logging.getLogger(__name__)


def fit_run(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> RunResult:
    """Train on the workers, or resume where they stopped; return and keep the result.

    Raises:
        DivergedError: The loss is not finite.
        TrainingError: The workers failed.
        StopTraining: The workers have stopped as asked.
    """
    return _conclude(loop, _fit_while_it_advances(loop, callbacks).return_value)


def fit_alone(loop: TrainLoopConfig, report: Callable[[Mapping[str, float]], None]) -> RunResult:
    """Train in this process, without workers of Ray; else like ``fit_run``.

    Ray Train needs many seconds to start a worker, more than a temporal model needs to train.

    Args:
        loop: The training, of one worker.
        report: Receives the record of each epoch.

    Raises:
        DivergedError: The loss is not finite.
    """
    from ophnet_ray.train.worker import run_worker
    from ophnet_ray.train.worker_place import place_alone

    return _conclude(loop, run_worker(loop, place_alone(report)))


def _conclude(loop: TrainLoopConfig, answer: Mapping[str, str]) -> RunResult:
    """Keep the result of a training that ended with an answer of ``run_worker``."""
    run = loop.run
    if stopped := answer["stopped"]:
        raise StopTraining(stopped)
    if failure := answer["failure"]:
        raise DivergedError(f"{failure}; see {run.logs}")
    run.enter()  # rank 0 may have worked on another machine
    best = best_checkpoint(find_checkpoints(run.checkpoints))
    checkpoint = str(best.file.relative_to(run.path))
    result = RunResult(checkpoint, best.epoch + 1, best.metrics, run.hash_metrics())
    run.write_result(result)
    return result


def _fit_while_it_advances(loop: TrainLoopConfig, callbacks: Sequence[UserCallback]) -> Any:
    """Return Ray Train's result, after any number of failures with new checkpoints between them.

    Ray counts the failures of a whole run. A run of days on machines that come and go would use
    them up, though each time it advances.

    Raises:
        TrainingError: The workers failed again and again without a new checkpoint.
    """
    run = loop.run
    while True:
        before = newest_position(run.checkpoints)
        try:
            return build_trainer(loop, callbacks).fit()
        except TrainingFailedError as error:
            logger.exception("training failed")
            run.enter()  # rank 0 may have worked on another machine
            if newest_position(run.checkpoints) <= before:
                cause = _named_failure(loop.status) or _root_cause(error)
                raise TrainingError(f"{cause}; see {run.logs}") from error


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
        status: Handle of a ``TrainingStatus``; None where nobody watches.
    """

    def __init__(self, status: Any) -> None:
        self._status = status

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Name ranks and causes."""
        if self._status is None:
            return
        causes = {rank: _describe(_cause_of(error)) for rank, error in worker_exceptions.items()}
        self._status.fail.remote(causes)


def train_loop(loop_config: dict[str, TrainLoopConfig]) -> dict[str, str]:
    """Run on each worker, called by Ray Train; see ``worker.run_worker``."""
    # Lightning and timm take four seconds of CPU to load: the processes that only start workers
    # and wait for them do without
    with quick_import():
        from ophnet_ray.train.worker import run_worker
        from ophnet_ray.train.worker_place import place_in_group

    return run_worker(loop_config["loop"], place_in_group())


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


def _named_failure(status: Any) -> str:
    """Return the line that names the workers of the last failure; empty where nobody watches."""
    if status is None:
        return ""
    try:
        return str(ray.get(status.get.remote())["failure"])
    except ActorUnavailableError:
        return ""  # it restarts elsewhere, and knows nothing


def _root_cause(error: TrainingFailedError) -> str:
    """Return the one line that says why the workers failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    return _describe(_cause_of(cause))


def _cause_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _describe(error: BaseException) -> str:
    """Return an exception's type and the cause in its message."""
    return f"{type(error).__name__}: {find_cause(error) or 'no message'}"
