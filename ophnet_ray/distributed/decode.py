"""Decode into the cache with Ray Data, in parallel on all nodes."""

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import TaskPoolStrategy

from ophnet_ray.data.cache.fill import DecodeAll, DecodeTask, decode_task
from ophnet_ray.data.cache.store import BlockCache, DecodeResult
from ophnet_ray.distributed.prometheus import count_decoded
from ophnet_ray.errors import TrainingError, UserError, last_line

logger = logging.getLogger(__name__)


def decode_on_ray(num_workers: int) -> DecodeAll:
    """Return a function that runs decode tasks as Ray Data tasks, one CPU each.

    A broken video is an entry with a reason, not an error: Ray Data would drop or repeat the good
    rows of its block together with it.
    """

    def decode_all(cache: BlockCache, tasks: list[DecodeTask]) -> Iterator[DecodeResult]:
        rows = [{"task": pickle.dumps(task)} for task in tasks]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            decode_row,  # type: ignore[arg-type] # Ray's hint forgets fn_kwargs
            fn_kwargs={"cache": cache},
            num_cpus=1,
            compute=TaskPoolStrategy(size=min(num_workers, len(rows))),
        )
        dataset.set_name("decode")
        for row in dataset.iter_rows():
            yield read_answer(row)

    return decode_all


def decode_row(row: dict[str, Any], cache: BlockCache) -> dict[str, Any]:
    """Run the decode task of a row; see ``read_answer`` for the returned one.

    Objects travel as bytes: a column has a type, and bytes are the plainest.
    """
    answer: DecodeResult | Exception
    try:
        answer = decode_task(cache, pickle.loads(row["task"]))  # noqa: S301 - our own bytes
        count_decoded(answer.num_blocks // cache.windows.blocks_per_window)
    except UserError as error:  # e.g. the disk is full: a second attempt would not help
        answer = error
    except Exception as error:
        logger.exception("a decoder failed")
        notes = "; ".join(getattr(error, "__notes__", []))
        cause = f"{type(error).__name__}: {last_line(error) or 'no message'}"
        answer = TrainingError(f"the decoder failed: {cause}{f' ({notes})' if notes else ''}")
    return {"answer": pickle.dumps(answer)}


def read_answer(row: dict[str, Any]) -> DecodeResult:
    """Return what a decode task has decoded.

    Raises:
        UserError: The user can mend the cause, e.g. a full disk.
        TrainingError: The decoder failed; cause and video are named.
    """
    answer: DecodeResult | Exception = pickle.loads(row["answer"])  # noqa: S301 - our own bytes
    if isinstance(answer, Exception):
        raise answer
    return answer
