"""Eight nodes of a Ray cluster on this machine, each with its own folder of copies of a bucket."""

import pickle
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from ophnet_ray.data.manifest import Manifest
from tests.benchmarks.table import Figure
from tests.helpers.bucket import CREDENTIALS, running_bucket
from tests.helpers.shards import WINDOWS, Node, move_to, write_shards

NUM_NODES, NUM_SHARDS, PER_SHARD = 8, 100, 26
LIMIT = 0.2
"""Share of the cache that a node may keep, in the runs with a limit."""
ORDERS: dict[str, dict[str, str | int]] = {"shard": {"shuffle": "shard"}, "global": {}}


def read_epoch(
    manifest: bytes, machine: str, rank: int, order: dict[str, str | int], limit: int | None
) -> tuple[str, int, float, int]:
    """Read the share of a worker that is alone on its node.

    Returns:
        Id of the node, windows, seconds, and bytes of the copies that are left.
    """
    rows: Manifest = pickle.loads(manifest)
    node = Node(move_to(rows, Path(machine)), rank, NUM_NODES, **order)
    started_s = time.monotonic()
    num_windows = sum(len(batch) for batch in node.read(limit))
    kept = sum(file.stat().st_size for file in Path(machine).glob("*.arrow"))
    return ray.get_runtime_context().get_node_id(), num_windows, time.monotonic() - started_s, kept


def compare_nodes(folder: Path) -> list[Figure]:
    """Compare what each node fetches in an epoch, by the order and by the room."""
    scratch = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-", dir=folder))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for i in range(NUM_NODES):
            cluster.add_node(num_cpus=1, resources={f"node{i}": 1}, object_store_memory=80_000_000)
        root = str(Path(__file__).parents[2])
        environment = {"env_vars": {**CREDENTIALS, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}}
        ray.init(address=cluster.address, runtime_env=environment, log_to_driver=False)
        with running_bucket(is_quiet=True) as bucket:
            rows = write_shards(scratch / "cache", bucket.uri("nodes"), NUM_SHARDS, PER_SHARD)
            cache_bytes = len(rows.items) * 8 * WINDOWS.image_size**2 * 3
            figures = []
            for name, order in ORDERS.items():
                for limit in (None, int(LIMIT * cache_bytes)):
                    bucket.count()
                    answers = _read_on_nodes(rows, scratch / f"{name}-{limit}", order, limit)
                    sent = bucket.count()["sent_bytes"]
                    figures += _describe(name, limit, answers, sent / cache_bytes, cache_bytes)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(scratch)
    return figures


def _read_on_nodes(
    rows: Manifest, folder: Path, order: dict[str, str | int], limit: int | None
) -> list[tuple[str, int, float, int]]:
    manifest = ray.put(pickle.dumps(rows))
    remote: Any = ray.remote(read_epoch)
    tasks = [
        remote.options(num_cpus=1, resources={f"node{rank}": 1}).remote(
            manifest, str(folder / str(rank)), rank, order, limit
        )
        for rank in range(NUM_NODES)
    ]
    answers: list[tuple[str, int, float, int]] = ray.get(tasks)
    if len({node for node, *_ in answers}) != NUM_NODES:
        raise RuntimeError("two workers ran on one node")
    return answers


def _describe(
    name: str,
    limit: int | None,
    answers: list[tuple[str, int, float, int]],
    sent: float,
    cache_bytes: int,
) -> list[Figure]:
    """Return the figures of an epoch; shares are of the bytes of the cache."""
    num_windows = sum(windows for _, windows, _, _ in answers)
    kept = np.asarray([each / cache_bytes for *_, each in answers])
    seconds = max(seconds for _, _, seconds, _ in answers)
    what = f"{name}, {'no limit' if limit is None else f'limit {LIMIT:.0%} of the cache'}"
    is_bound = name == "shard"
    return [
        Figure(f"fetched by all nodes / cache, {what}", sent,
               f"{num_windows} windows, {seconds:.1f} s", "<= 1.5" if is_bound else ""),
        Figure(f"copies on a node at the end / cache, {what}: most", float(kept.max()),
               f"least {kept.min():.3f}", "<= 0.2" if is_bound else ""),
    ]  # fmt: skip
