"""A cluster of a head and two nodes on this machine, whose nodes can be killed and drained."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ophnet_ray.distributed.environment import token_path
from ophnet_ray.distributed.ownership import create_token
from tests.reliability.place import Fault, Place, await_step, started


@contextmanager
def closed_cluster(
    environment: Mapping[str, str], num_cpus: int
) -> Iterator[tuple[Any, list[Any]]]:
    """Start a cluster of a head and two nodes that opens to the token of this user alone.

    Args:
        environment: Of the processes of its nodes.
        num_cpus: CPUs of each node.
    """
    # Ray reads the mode when it is imported; nodes inherit the environment of this process
    os.environ |= {**environment, "RAY_AUTH_MODE": "token"}
    create_token(token_path())
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        yield cluster, [cluster.add_node(num_cpus=num_cpus) for _ in range(2)]
    finally:
        cluster.shutdown()


@contextmanager
def run_on_cluster(
    place: Place, *faults: Fault, num_cpus: int = 1, **settings: Any
) -> Iterator[tuple[Any, list[Any], subprocess.Popen[str]]]:
    """Start a cluster, and on it a run, up to the step of its fault.

    Yields:
        The cluster, its two nodes, and the driver, which ends with the context.
    """
    with (
        closed_cluster(place.environment(faults), num_cpus) as (cluster, nodes),
        started(place, address=cluster.address, **settings) as process,
    ):
        await_step(place, process)
        yield cluster, nodes, process


def node_of(place: Place, rank: int, nodes: list[Any]) -> Any:
    """Return the node on which a train worker of a run works."""
    pid = int(next(place.ledger.glob(f"{rank}.*.jsonl")).name.split(".")[1])
    above = {process.pid for process in psutil.Process(pid).parents()}
    return next(node for node in nodes if node.all_processes["raylet"][0].process.pid in above)


def drain(address: str, node_id: str) -> None:
    """Announce that a node is taken away in a minute, as a cloud does for a spot machine."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        f"--address={address}",
        f"--node-id={node_id}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=spot",
        "--deadline-remaining-seconds=60",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
