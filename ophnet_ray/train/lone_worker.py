"""Training of a run's only worker in this process, without a worker process of Ray Train.

Ray Train's local mode (``ScalingConfig(num_workers=0)``) calls the training function just like
this. It retries nothing and calls no callback of a run; here, a failure is retried and named.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.console import kept_log
from ophnet_ray.distributed.environment import CUBLAS_ENVIRONMENT, find_running_head
from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import BrokenProcessError, TrainingError, UserError
from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.quick_import import quick_import
from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES, conclude, describe, find_root
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunResult
from ophnet_ray.train.stop_poll import StopTraining

logger = logging.getLogger(__name__)


def trains_here(config: Config, resources: Resources) -> bool:
    """Return True for a run of one worker on a machine of its own: its worker is this process.

    A number of workers that was asked for is that of workers of Ray Train.
    """
    training = config.training
    return (
        find_running_head() is None
        and training.train_workers is None
        and training.strategy != "fsdp"
        and resources.train_workers == 1
    )


def fit_with_retries(
    loop: TrainLoopConfig,
    report: Callable[[Mapping[str, float]], None] = lambda _: None,
    read_notice: Callable[[], Any] = lambda: None,
) -> RunResult:
    """Train in this process, and resume where an error broke the training off.

    Args:
        loop: The training, of one worker.
        report: Receives the record of each epoch.
        read_notice: Returns what is announced of this machine's end, or None.

    Raises:
        DivergedError: The loss is not finite.
        BrokenProcessError: After an error of the GPU, this process cannot try again.
        TrainingError: Training failed again and again without a new checkpoint.
        StopTraining: Training has stopped as asked.
    """
    if loop.config.training.deterministic:
        os.environ |= CUBLAS_ENVIRONMENT
    with kept_log():
        try:
            return _fit_while_it_advances(loop, report, read_notice)
        finally:
            # before libraries of the next stage are loaded: quick_import keeps garbage for ever
            release_memory()


def _fit_while_it_advances(
    loop: TrainLoopConfig,
    report: Callable[[Mapping[str, float]], None],
    read_notice: Callable[[], Any],
) -> RunResult:
    run, num_failures = loop.run, 0
    while True:
        before = newest_position(run.checkpoints)
        release_memory()  # an error held it until now
        try:
            return fit_once(loop, report, read_notice)
        except (UserError, TrainingError, StopTraining):
            raise
        except Exception as error:
            logger.exception("training failed")
            cause = describe(find_root(error))
            if _is_gpu_lost():
                raise BrokenProcessError(
                    f"{cause}; the GPU answers this process no more, and the same command goes on "
                    f"from the last checkpoint; see {run.logs}"
                ) from error
            is_advancing = newest_position(run.checkpoints) > before
            num_failures = 0 if is_advancing else num_failures + 1
            if loop.status is not None:
                loop.status.fail({0: cause})
            if num_failures > MAX_WORKER_FAILURES:
                raise TrainingError(f"{cause}; see {run.logs}") from error


def release_memory() -> None:
    """Give back what the last training of this process has left: the next one begins as new."""
    torch = sys.modules.get("torch")
    if torch is not None and "torch._dynamo" in sys.modules:
        # a function that was compiled for 8 networks runs uncompiled for the next ones
        torch.compiler.reset()
    gc.collect()  # module, trainer and loops refer to each other
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    except RuntimeError as error:
        # after an illegal access or a failed assertion, all calls fail until the process ends
        logger.warning("the memory of the GPU is not given back: %s", find_cause(error))


def _is_gpu_lost() -> bool:
    """Return True if all further calls of CUDA fail in this process.

    After an illegal access, a failed assertion or an error of the memory they do, until it ends
    (CUDA Runtime API, "cudaDeviceSynchronize"). The type of the error does not tell: PyTorch's
    ``AcceleratorError`` is also raised for harmless ones, e.g. of a kernel that is not built for
    this GPU, and libraries of CUDA raise others.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def fit_once(
    loop: TrainLoopConfig,
    report: Callable[[Mapping[str, float]], None],
    read_notice: Callable[[], Any] = lambda: None,
) -> RunResult:
    """Train once in this process; return and keep the result.

    Args:
        loop: The training, of one worker.
        report: Receives the record of each epoch.
        read_notice: Returns what is announced of this machine's end, or None.

    Raises:
        DivergedError: The loss is not finite.
        StopTraining: Training has stopped as asked.
    """
    # Lightning and timm take seconds to load: the processes that only start trials do without
    with quick_import():
        from ophnet_ray.train.worker import run_worker
        from ophnet_ray.train.worker_place import place_alone

    return conclude(loop, run_worker(loop, place_alone(report, read_notice)))
