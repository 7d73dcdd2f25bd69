"""End of a training: its result, or why it failed, in one line."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.errors import DivergedError, TrainingError, UserError
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.train.stop_poll import StopTraining

MAX_WORKER_FAILURES = 3
"""Failures of workers after which training ends, if there was no new checkpoint."""

logger = logging.getLogger(__name__)


def conclude(loop: TrainLoopConfig, answer: Mapping[str, str]) -> RunResult:
    """Return and keep the result of a training, from the answer of its workers.

    Raises:
        DivergedError: The loss is not finite.
        StopTraining: The workers have stopped as asked.
    """
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
    except Exception as error:
        if not isinstance(error, (OSError, *_errors_of_ray())):
            raise
        logger.exception("the %s broke off", what)
        raise TrainingError(f"{describe(error)}; see {run.logs}") from error


def _errors_of_ray() -> tuple[type[Exception], ...]:
    """Return the bases of Ray's errors; none of a part of Ray that is not loaded."""
    bases = {"ray.exceptions": "RayError", "ray.tune": "TuneError"}
    loaded = {module: sys.modules.get(module) for module in bases}
    return tuple(getattr(loaded[each], name) for each, name in bases.items() if loaded[each])


def find_root(error: BaseException) -> BaseException:
    """Return the error at the beginning of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def describe(error: BaseException) -> str:
    """Return an exception's type and the cause in its message."""
    return f"{type(error).__name__}: {find_cause(error) or 'no message'}"
