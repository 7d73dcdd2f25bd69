"""Status of a training: it outlives the nodes of the workers, and a restart of its own process."""

import os
import subprocess
import sys

import pytest

from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.signals import StopRequest
from ophnet_ray.train.heartbeat import Position
from ophnet_ray.train.protocol import TrainingStatus
from ophnet_ray.train.watch import SILENT_S, TrainingWatch
from tests.helpers.paths import ROOT
from tests.helpers.waiting import wait_until

LOSE_NODES = """
import psutil
from tests.reliability.small_cluster import closed_cluster
with closed_cluster({}, num_cpus=1) as (cluster, nodes):
    import ray  # reads its environment
    from ophnet_ray.train.protocol import RemoteStatus
    ray.init(address=cluster.address, log_to_driver=False)
    statuses = [RemoteStatus(f"run-{k}") for k in range(3)]
    for k, status in enumerate(statuses):
        status.update(epoch=k + 1)
        status.get()
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
    below = [each for raylet in raylets for each in raylet.children()]
    for node in nodes:
        cluster.remove_node(node, allow_graceful=False)
    psutil.wait_procs(below, timeout=60)
    print("epochs", [status.get()["epoch"] for status in statuses])
    ray.shutdown()
"""


@pytest.mark.integration
def test_a_status_outlives_all_nodes_but_that_of_its_driver():
    done = subprocess.run(
        [sys.executable, "-c", LOSE_NODES],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # Ray prints lines of its own about the nodes
    assert "epochs [1, 2, 3]" in done.stdout.splitlines(), done.stderr


class RestartingStatus(TrainingStatus):
    """Status that forgets what it knew, as an actor whose process has ended."""

    def restart(self):
        super().__init__()


@pytest.mark.unit
def test_after_a_restart_no_warning_is_lost_and_the_workers_are_asked_to_stop_again():
    status, request, warned = RestartingStatus(), StopRequest(), []

    def fit():
        status.warn("first")
        wait_until(lambda: "first" in warned, "the first warning is shown")
        request.signal_name = "SIGTERM"
        wait_until(lambda: status.get()["stop"], "the workers are asked to stop")
        status.restart()
        status.warn("second")
        wait_until(lambda: "second" in warned, "the second warning is shown")
        wait_until(lambda: status.get()["stop"], "the workers are asked again")

    with Console().stage("train", 1) as stage:
        resources = Resources(1, False, 1, 1)
        TrainingWatch(status, stage, warn=warned.append, resources=resources, request=request).run(
            fit
        )
    assert [each for each in warned if not each.startswith("SIGTERM")] == ["first", "second"]


@pytest.mark.unit
def test_after_a_failure_the_wait_for_new_workers_counts_from_the_failure():
    now_s, warned = 0.0, []

    def clock():
        return now_s

    def tell():
        watch._show()
        told, warned[:] = [*warned], []
        return told

    status = TrainingStatus(clock)
    with Console().stage("train", 1) as stage:
        watch = TrainingWatch(
            status,
            stage,
            warn=warned.append,
            resources=Resources(1, False, 1, 1),
            request=StopRequest(),
            clock=clock,
        )
        for now_s in (50.0, 100.0):  # training goes on for longer than a silence
            status.beat(0, Position(1, "training", int(now_s)), "process 1 on a machine")
            assert tell() == []
        now_s += SILENT_S + 1
        assert [line.split(":")[0] for line in tell()] == ["no step for 56 s"]
        status.fail({0: "its machine is lost"})
        (line,) = tell()
        assert line.startswith("train worker 0 ")
        assert "its machine is lost" in line
        now_s += SILENT_S - 1
        assert tell() == []
        now_s += 2
        (line,) = tell()
    # where this process has no Ray, or has one
    assert line.startswith(("no step for 56 s: this process", "no train worker has started for 56"))
