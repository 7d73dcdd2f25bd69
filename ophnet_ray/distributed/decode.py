"""Decode into the cache with Ray Data, in parallel on all nodes."""

import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import TaskPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from ophnet_ray.data.cache.fill import DecodeAll, decode_task
from ophnet_ray.data.cache.packed_result import pack_result, unpack_result
from ophnet_ray.data.cache.store import BlockCache, DecodeResult
from ophnet_ray.data.cache.task_plan import DecodeTask, divide_by_video
from ophnet_ray.data.video.hang_guard import DECODER_CRASHED, end_hanging_process
from ophnet_ray.distributed.lone_task import CrashError, NodeLostError, run_alone
from ophnet_ray.distributed.prometheus import count_decoded
from ophnet_ray.errors import TrainingError, UserError, last_line
from ophnet_ray.storage.filesystems import StorageError

logger = logging.getLogger(__name__)


def decode_on_ray(max_workers: int | None) -> DecodeAll:
    """Return a function that runs decode tasks as Ray Data tasks, one CPU each.

    Tasks run on all CPUs that the cluster has at the time: Ray Data asks for its size every few
    seconds. Nodes that join are used, and those that leave are done without.

    A broken video is an entry with a reason, not an error: Ray Data would drop or repeat the good
    rows of its block together with it. A video whose decoder crashes, or does not return (see
    ``hang_guard``), three times (with its task, with no other video in the task, and with nothing
    beside it) is rejected and costs no other.

    Args:
        max_workers: Maximum number of tasks at a time; None for one per CPU of the cluster.
    """

    def decode_all(cache: BlockCache, tasks: Sequence[DecodeTask]) -> Iterator[DecodeResult]:
        crashed: list[DecodeTask] = []
        yield from _decode_in_parallel(cache, tasks, max_workers, crashed)
        suspects = [part for task in crashed for part in divide_by_video(task)]
        num_tasks = len(tasks) + len(suspects) - len(crashed)
        crashed = []
        yield from _decode_in_parallel(cache, suspects, max_workers, crashed)
        for task in crashed:
            # where no decoder works, it is the machine, and the next run tries again
            yield _decode_alone(cache, task, is_permanent=len(crashed) < num_tasks)

    return decode_all


def _decode_in_parallel(
    cache: BlockCache,
    tasks: Sequence[DecodeTask],
    max_workers: int | None,
    crashed: list[DecodeTask],
) -> Iterator[DecodeResult]:
    """Run each task once; append the tasks whose process ended to ``crashed``."""
    if not tasks:
        return
    rows = [{"number": i, "task": pickle.dumps(task)} for i, task in enumerate(tasks)]
    with warnings.catch_warnings():
        # the only way to set retries: by default Ray Data repeats a task without end
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            decode_row,  # type: ignore[arg-type] # Ray's hint forgets fn_kwargs
            fn_kwargs={"cache": cache},
            num_cpus=1,
            compute=TaskPoolStrategy(None if max_workers is None else min(max_workers, len(rows))),
            max_retries=0,
        )
    dataset.set_name("decode")
    dataset.context.max_errored_blocks = len(rows)  # a task whose process ended gives no row
    missing = dict.fromkeys(range(len(tasks)))
    for row in dataset.iter_rows():
        del missing[row["number"]]
        yield read_answer(row, tasks[row["number"]])
    lost = [tasks[number] for number in missing]
    for task in lost:
        videos = sorted({segment.video for segment, _ in task})
        logger.warning("a decoder crashed at one of %s", ", ".join(videos))
    crashed += lost


def _decode_alone(cache: BlockCache, task: DecodeTask, *, is_permanent: bool) -> DecodeResult:
    """Decode one video while no other is decoded; reject it if the process crashes.

    Raises:
        TrainingError: The node of the decoder was lost, which says nothing about the video.
    """
    video, keys = task[0][0].video, [key for _, key in task]
    try:
        row = run_alone(decode_row, 0, {"number": 0, "task": pickle.dumps(task)}, cache)
    except CrashError as error:
        logger.warning("the decoder crashes at %s", video)
        # memory that Ray took back for the whole machine may suffice the next time
        is_permanent = is_permanent and not error.is_out_of_memory
        return cache.reject(keys, video, DECODER_CRASHED, is_permanent=is_permanent)
    except NodeLostError as error:
        raise TrainingError(
            f"the node that decoded {video} was lost three times; the same command resumes"
        ) from error
    return read_answer(row, task)


def decode_row(row: dict[str, Any], cache: BlockCache) -> dict[str, Any]:
    """Run the decode task of a row; see ``read_answer`` for the returned one.

    Objects travel as bytes: a column has a type, and bytes are the plainest. The row's ``number``
    is returned.
    """
    task: DecodeTask = pickle.loads(row["task"])  # noqa: S301 - our own bytes
    answer: bytes | Exception
    try:
        with end_hanging_process():
            done = decode_task(cache, task)
        count_decoded(done.num_blocks // cache.windows.blocks_per_window)
        answer = pack_result(done, task)
    except (UserError, StorageError) as error:  # e.g. the disk is full: another attempt is in vain
        answer = error
    except Exception as error:
        logger.exception("a decoder failed")
        notes = "; ".join(getattr(error, "__notes__", []))
        cause = f"{type(error).__name__}: {last_line(error) or 'no message'}"
        answer = TrainingError(f"the decoder failed: {cause}{f' ({notes})' if notes else ''}")
    return {"number": row["number"], "answer": pickle.dumps(answer)}


def read_answer(row: dict[str, Any], task: DecodeTask) -> DecodeResult:
    """Return what a decode task has decoded.

    Args:
        row: From ``decode_row``.
        task: The task of that row.

    Raises:
        UserError: The user can mend the cause, e.g. a full disk.
        StorageError: A video cannot be read now.
        TrainingError: The decoder failed; cause and video are named.
    """
    answer: bytes | Exception = pickle.loads(row["answer"])  # noqa: S301 - our own bytes
    if isinstance(answer, Exception):
        raise answer
    return unpack_result(answer, task)
