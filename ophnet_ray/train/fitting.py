"""Run a trainer to its end, and keep the answer."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError
from ray.train import TrainingFailedError, UserCallback, WorkerGroupError
from ray.tune import TuneError

from ophnet_ray.errors import TrainingError, UserError, last_line
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.trainer import build_trainer
from ophnet_ray.train.worker_config import TrainLoopConfig

logger = logging.getLogger(__name__)


def fit_run(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> dict[str, Any]:
    """Train on the workers, or go on where they stopped; return and keep the result.

    Raises:
        TrainingError: The workers failed, or the loss became infinite.
    """
    run = loop.run
    try:
        result: Any = build_trainer(loop, callbacks).fit()
    except TrainingFailedError as error:
        logger.exception("training failed")
        raise TrainingError(f"{_root_cause(error)}; see {run.logs}") from error
    if failure := result.return_value["failure"]:
        raise TrainingError(f"{failure}; see {run.logs}")
    run.enter()  # rank 0 may have worked on another machine
    best = best_checkpoint(find_checkpoints(run.checkpoints))
    answer = {
        "checkpoint": str(best.file.relative_to(run.path)),
        "best_epoch": best.epoch + 1,
        "scores": best.metrics,
    }
    run.write_result(answer)
    return answer


@contextmanager
def failures_in_one_line(run: RunDirectory, what: str) -> Iterator[None]:
    """Log whatever breaks a run off, and make one line of it.

    Raises:
        UserError: As it was raised inside.
        TrainingError: Likewise, or for what Ray and the disk raise.
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
    """The one line that tells why the workers failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return _describe(cause)


def _describe(error: BaseException) -> str:
    """An exception's type and the last line of its message."""
    return f"{type(error).__name__}: {last_line(error) or 'no message'}"
