"""Decode in parallel with Ray Data, into the cache."""

import pickle
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import TaskPoolStrategy

from ophnet_ray.data.cache.fill import DecodeAll, DecodeTask, decode_task
from ophnet_ray.data.cache.store import BlockCache, DecodeResult
from ophnet_ray.distributed.prometheus import count_decoded
from ophnet_ray.errors import UserError


def decode_on_ray(num_workers: int) -> DecodeAll:
    """Decode tasks as Ray Data tasks over the whole cluster, one CPU each.

    A broken video is an entry with a reason, not an error: Ray Data would drop or retry the good
    rows of its block with it.
    """

    def decode_all(cache: BlockCache, tasks: list[DecodeTask]) -> Iterator[DecodeResult]:
        def decode(row: dict[str, Any]) -> dict[str, Any]:
            try:
                # our own objects travel as bytes: a column has a type, and bytes are the plainest
                done = decode_task(cache, pickle.loads(row["task"]))  # noqa: S301 - ours
                count_decoded(done.num_blocks // cache.windows.blocks_per_window)
                return {"shard": pickle.dumps(done)}
            except UserError as error:  # e.g. the disk is full: no use in trying again
                return {"shard": pickle.dumps(error)}

        rows = [{"task": pickle.dumps(task)} for task in tasks]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            decode, num_cpus=1, compute=TaskPoolStrategy(size=min(num_workers, len(rows)))
        )
        dataset.set_name("decode")
        for row in dataset.iter_rows():
            shard = pickle.loads(row["shard"])  # noqa: S301 - ours
            if isinstance(shard, UserError):
                raise shard
            yield shard

    return decode_all
