"""Videos looked at on all nodes of a cluster, and findings of the cluster itself."""

import logging
from collections.abc import Callable, Iterator, Sequence

import ray

from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster_check import SharedPaths, find_node_faults
from ophnet_ray.distributed.lone_task import (
    LOST_PROCESS,
    CrashError,
    NodeLostError,
    run_alone,
)
from ophnet_ray.distributed.resources import plan_resources
from ophnet_ray.errors import UserError
from ophnet_ray.inspection.findings import Finding
from ophnet_ray.inspection.pool import crashed
from ophnet_ray.inspection.setup_checks import collect, describe_error
from ophnet_ray.inspection.video_facts import VideoFacts, VideoTask, inspect_in_worker

logger = logging.getLogger(__name__)

NODE_LOST = "not looked at: its node was lost, twice"


def inspect_on_ray(tasks: Sequence[VideoTask]) -> Iterator[VideoFacts]:
    """Look at videos as Ray tasks, one CPU each, on the connected cluster.

    A video whose process ends twice, the second time alone, is reported; it costs no other. So is
    one whose node was lost twice.
    """
    inspect = ray.remote(num_cpus=1, max_retries=0)(inspect_in_worker)
    running = {inspect.remote(task): task for task in tasks}
    suspects = []
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        task = running.pop(done)
        try:
            yield ray.get(done)
        except LOST_PROCESS as error:
            logger.warning("a process ended at %s: %s", task.video, error)
            suspects.append(task)
    for task in suspects:
        try:
            yield run_alone(inspect_in_worker, 0, task)
        except CrashError:
            yield crashed(task)
        except NodeLostError:
            yield VideoFacts(video=task.video, reason=NODE_LOST, kind="unreadable")


def check_joined_cluster(
    config: Config, shared: SharedPaths, on_notice: Callable[[str], None]
) -> list[Finding]:
    """Find what a run would miss on the connected cluster: workers, versions, paths.

    Args:
        config: Settings of the run.
        shared: What every node must see.
        on_notice: Receives a line when nodes are waited for.
    """
    findings = collect("set-up", "--train_workers", lambda: plan_resources(config, on_notice))
    try:
        for fault in find_node_faults(shared):
            findings += describe_error("node", "cluster", UserError(fault))
    except UserError as error:
        findings += describe_error("node", "cluster", error)
    return findings
