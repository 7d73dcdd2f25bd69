"""Train workers that fall asleep, come and go, or die again and again, in whole runs."""

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until
from tests.reliability.kills import (
    STEPS,
    TIMEOUT_S,
    WORKERS,
    Place,
    closed_cluster,
    finish,
    is_below,
    judge,
    judged,
    read_until,
    run_struck,
    windows_by_epoch,
)
from tests.reliability.outcome import Outcome

COLLECTIVE_TIMEOUT_S = 90
NAMED_WITHIN_S = 60.0
SLOW = {"what": "slow", "seconds": 0.5}
LONG_EPOCHS, KILL_EVERY = 12, 20
"""Epochs of the run under failures, and steps between two kills."""


def run_asleep(n: int, seed: int, folder: Path) -> Outcome:
    """Stop a worker (SIGSTOP) at a step: named within a minute, and started again at the limit."""
    return run_struck(n, seed, folder, "asleep", _stop_worker)


def _stop_worker(place: Place, rank: int, step: int) -> None:
    process = place.start(
        {"what": "sleep", "rank": rank, "step": step}, collective_timeout_s=COLLECTIVE_TIMEOUT_S
    )
    try:
        _watch_stopped(place, process, rank)
    finally:
        process.kill()  # unless it has ended


def _watch_stopped(place: Place, process: subprocess.Popen[str], rank: int) -> None:
    heard = read_until(process, "no step for")
    pid = int(next(place.ledger.glob(f"{rank}.*.jsonl")).name.split(".")[1])
    name = f"train worker {rank} (process {pid} on {os.uname().nodename}) does not answer"
    assert name in heard.splitlines()[-1], f"not named\n{heard}"
    heard = read_until(process, "training resumes from the last checkpoint")
    assert name in heard.splitlines()[-1], f"not named at the limit\n{heard}"
    finish(process)
    assert not psutil.pid_exists(pid), "the stopped process is left"


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
    faults = [SLOW, {"what": "wait", "rank": rank, "step": step}]
    with closed_cluster(place.environment(faults), num_cpus=1) as (cluster, nodes):
        process = place.start(address=cluster.address, max_epochs=LONG_EPOCHS, train_workers="1:2")
        try:
            _await(process, (place.ledger / "struck").exists, "the step is reached")
            pid = int(next(place.ledger.glob(f"{rank}.*.jsonl")).name.split(".")[1])
            node = next(node for node in nodes if is_below(pid, node))
            cluster.remove_node(node, allow_graceful=False)
            (place.ledger / "go on").touch()
            _await(process, lambda: 1 in _sizes(place), "one worker goes on")
            cluster.add_node(num_cpus=1)
            finish(process)
        finally:
            process.kill()  # unless it has ended
    return _sizes(place)


def _sizes(place: Place) -> list[int]:
    sizes: list[int] = []
    for line in place.read_ledger():
        if sizes[-1:] != [line["workers"]]:
            sizes.append(line["workers"])
    return sizes


def _await(process: subprocess.Popen[str], holds: Any, what: str) -> None:
    wait_until(lambda: process.poll() is not None or holds(), what, timeout_s=TIMEOUT_S)
    assert process.poll() is None, f"{what}: the run ended\n{process.communicate()[0]}"


def run_failures(n: int, seed: int, folder: Path) -> Outcome:
    """Kill a worker every ``KILL_EVERY`` steps: time to all steps, against a run without kills.

    Samples: seconds between first and last step of both runs, seconds that a kill costs, and the
    effective share of the time: what the run without kills took, by what the other one took.
    """
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data)
    finish(whole.start(SLOW, max_epochs=LONG_EPOCHS))
    windows = windows_by_epoch(whole.read_ledger())
    num_steps = LONG_EPOCHS * STEPS
    for number in range(n):
        rng = random.Random(f"failures:{seed}:{number}")
        kills = [
            {"what": "kill", "rank": rng.randrange(WORKERS), "step": step}
            for step in range(KILL_EVERY, num_steps, KILL_EVERY)
        ]
        place = Place(folder / str(number), data)
        with judged(outcome, place, kills):
            finish(place.start(SLOW, *kills, max_epochs=LONG_EPOCHS))
            judge(place, whole.weights(), windows, len(kills) * 2)
            took_s = [_seconds_of(each) for each in (whole, place)]
            outcome.sample("whole_s", took_s[0])
            outcome.sample("with_kills_s", took_s[1])
            outcome.sample("s_per_kill", (took_s[1] - took_s[0]) / len(kills))
            outcome.sample("effective_share", took_s[0] / took_s[1])
    return outcome


def _seconds_of(place: Place) -> float:
    times_s = [line["time_s"] for line in place.read_ledger()]
    return max(times_s) - min(times_s)
