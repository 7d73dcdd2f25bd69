"""A Ray task that runs once and alone: its process may end, e.g. with a decoder that crashes."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

P = ParamSpec("P")
T = TypeVar("T")

LOST_PROCESS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError)
"""Errors of a task whose process has ended."""

logger = logging.getLogger(__name__)


class CrashError(Exception):
    """The process of a task has ended, by its own doing.

    ``is_out_of_memory``: Ray ended it to save the machine; it may find memory another time.
    """

    def __init__(self, message: str, *, is_out_of_memory: bool) -> None:
        super().__init__(message)
        self.is_out_of_memory = is_out_of_memory


class NodeLostError(Exception):
    """The node of a task is gone, which says nothing about the task."""


def run_alone(work: Callable[P, T], num_gpus: float, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a process of a node of the cluster, and do not repeat it.

    Args:
        work: The function.
        num_gpus: Share of a GPU that it takes, beside one CPU.
        args: Its arguments.
        kwargs: Likewise.

    Raises:
        CrashError: Its process has ended.
        NodeLostError: The node was lost.
    """
    task = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=0)(work)
    try:
        answer: T = ray.get(task.remote(*args, **kwargs))
    except NodeDiedError as error:
        raise NodeLostError(str(error)) from error
    except (WorkerCrashedError, OutOfMemoryError) as error:
        logger.warning("the process of a task has ended: %s", error)
        is_out_of_memory = isinstance(error, OutOfMemoryError)
        raise CrashError(str(error), is_out_of_memory=is_out_of_memory) from error
    return answer
