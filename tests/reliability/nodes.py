"""Whole runs on clusters whose nodes die, join or are busy, and on other numbers of workers."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.videos import write_color_dataset
from tests.reliability.kills import judge, judged, run_struck, windows_by_epoch
from tests.reliability.outcome import Outcome
from tests.reliability.place import (
    EPOCHS,
    LONG_EPOCHS,
    SLOW,
    STEPS,
    TIMEOUT_S,
    WORKERS,
    Place,
    await_step,
    await_while_running,
    finish,
    read_until,
    started,
    strike_driver,
    wait_at,
)
from tests.reliability.small_cluster import closed_cluster, drain, node_of, run_on_cluster

HOLD = f"""
import ray, sys
ray.init(log_to_driver=False)
held = ray.util.placement_group([{{"CPU": 1}}] * {WORKERS})
ray.get(held.ready())
print("held", flush=True)
sys.stdin.read()
"""
"""A job that takes the CPUs of the cluster until its standard input ends."""


def run_kill_node(n: int, seed: int, folder: Path) -> Outcome:
    """Kill the raylet of a train worker's node; another node joins, and the run completes."""
    return run_struck(n, seed, folder, "kill_node", _kill_node)


def _kill_node(place: Place, rank: int, step: int) -> None:
    with run_on_cluster(place, wait_at(rank, step)) as (cluster, nodes, process):
        cluster.remove_node(node_of(place, rank, nodes), allow_graceful=False)
        cluster.add_node(num_cpus=1)
        (place.ledger / "go on").touch()
        finish(process)


def run_kill_head(n: int, seed: int, folder: Path) -> Outcome:
    """Kill the head of the cluster; the same command on a new cluster completes the run."""
    return run_struck(n, seed, folder, "kill_head", _kill_head)


def _kill_head(place: Place, rank: int, step: int) -> None:
    with run_on_cluster(place, wait_at(rank, step)) as (cluster, _, process):
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        (place.ledger / "go on").touch()
        text, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode, f"exit code {process.returncode}\n{text}"
    with closed_cluster(place.environment([]), num_cpus=1) as (cluster, _):
        finish(place.start(address=cluster.address))


def run_busy(n: int, seed: int, folder: Path) -> Outcome:
    """Start on a cluster whose CPUs another job holds: named in a minute, completed afterwards."""
    return run_struck(n, seed, folder, "busy", _wait_for_cpus)


def _wait_for_cpus(place: Place, _: int, __: int) -> None:
    with closed_cluster(place.environment([]), num_cpus=1) as (cluster, _nodes):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            env=os.environ | {"RAY_ADDRESS": cluster.address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert read_until(holder, "held"), "the other job ended"
        with started(place, address=cluster.address) as process:
            heard = read_until(process, "no train worker has started for")
            assert f"{WORKERS} CPUs are wanted, 0 of {WORKERS} are free" in heard, heard
            holder.communicate(timeout=TIMEOUT_S)
            finish(process)


def run_resize(n: int, seed: int, folder: Path) -> Outcome:
    """Train on one worker, on two, and on one again: the windows of each epoch stay the same."""
    outcome, settings = Outcome(), {"batch_size": 2}
    whole = _train_alone(folder, **settings)
    windows = windows_by_epoch(whole.read_ledger())
    for number in range(n):
        rng = random.Random(f"resize:{seed}:{number}")
        # in two epochs: a stop is heard a few steps late, and the run must come to the second one
        first, second = rng.randrange(1, STEPS), rng.randrange(STEPS, (EPOCHS - 1) * STEPS)
        place = Place(folder / str(number), whole.data)
        with judged(outcome, place, (first, second)):
            for workers, step in ((1, first), (2, second)):
                _stop_at(place, step, train_workers=workers, **settings)
            finish(place.start(train_workers=1, **settings))
            assert windows_by_epoch(place.read_ledger()) == windows, "other windows"
    return outcome


def run_threads(n: int, seed: int, folder: Path) -> Outcome:
    """Resume with half of the cores: the run keeps its threads, and ends with the same weights."""
    outcome, settings = Outcome(), {"train_workers": 1}
    cores = os.sched_getaffinity(0)
    whole = _train_alone(folder)
    wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
    for number in range(n):
        step = random.Random(f"threads:{seed}:{number}").randrange(1, (EPOCHS - 1) * STEPS)
        place = Place(folder / str(number), whole.data)
        with judged(outcome, place, step):
            _stop_at(place, step, **settings)
            os.sched_setaffinity(0, set(sorted(cores)[: len(cores) // 2]))
            try:
                finish(place.start(**settings))
            finally:
                os.sched_setaffinity(0, cores)
            judge(place, wanted, windows)
    return outcome


def _train_alone(folder: Path, **settings: Any) -> Place:
    """Train on one worker to the end, in a run that nothing disturbs."""
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data)
    finish(whole.start(train_workers=1, **settings))
    return whole


def _stop_at(place: Place, step: int, **settings: Any) -> None:
    """Send SIGTERM to a run at a step of its first worker."""
    for name in ("struck", "go on"):
        (place.ledger / name).unlink(missing_ok=True)
    for visit in place.ledger.glob("visit-*"):
        visit.unlink()
    with started(place, wait_at(0, step), **settings) as process:
        await_step(place, process)
        strike_driver(place, process, signal.SIGTERM, 128 + signal.SIGTERM)


def run_preemption(n: int, seed: int, folder: Path) -> Outcome:
    """Announce that a node leaves, then take it away: a checkpoint at the notice, and no step lost.

    The cluster has a head and two nodes; two workers fit on either.
    """
    return run_struck(n, seed, folder, "preemption", _preempt)


def _preempt(place: Place, rank: int, step: int) -> None:
    with run_on_cluster(place, wait_at(rank, step), num_cpus=3) as (cluster, nodes, process):
        node = node_of(place, rank, nodes)
        drain(cluster.address, node.node_id)
        (place.ledger / "go on").touch()
        unfinished = place.checkpoints / "unfinished"
        await_while_running(
            process, lambda: list(unfinished.glob("epoch=*")), "a checkpoint at the notice", 30
        )
        cluster.remove_node(node, allow_graceful=False)
        finish(process)


def run_elastic(n: int, seed: int, folder: Path) -> Outcome:
    """Train on ``1:2`` workers: kill the node of one of two, then add a node.

    The run goes on with one worker, grows to two, and takes the same windows in each epoch.
    """
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data)
    finish(whole.start(max_epochs=LONG_EPOCHS))
    windows = windows_by_epoch(whole.read_ledger())
    for number in range(n):
        rng = random.Random(f"elastic:{seed}:{number}")
        rank, step = rng.randrange(WORKERS), rng.randrange(1, 2 * STEPS)
        place = Place(folder / str(number), data)
        with judged(outcome, place, (rank, step)):
            sizes = _lose_and_add_node(place, rank, step)
            assert sizes == [2, 1, 2], f"{sizes} workers"
            assert windows_by_epoch(place.read_ledger()) == windows, "other windows"
    return outcome


def _lose_and_add_node(place: Place, rank: int, step: int) -> list[int]:
    """Return the numbers of workers, in the order of time."""
    settings = {"max_epochs": LONG_EPOCHS, "train_workers": "1:2"}
    with run_on_cluster(place, SLOW, wait_at(rank, step), **settings) as (cluster, nodes, process):
        cluster.remove_node(node_of(place, rank, nodes), allow_graceful=False)
        (place.ledger / "go on").touch()
        await_while_running(process, lambda: 1 in _sizes(place), "one worker goes on")
        cluster.add_node(num_cpus=1)
        finish(process)
    return _sizes(place)


def _sizes(place: Place) -> list[int]:
    sizes: list[int] = []
    for line in place.read_ledger():
        if sizes[-1:] != [line["workers"]]:
            sizes.append(line["workers"])
    return sizes
