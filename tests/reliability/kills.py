"""Processes of a run killed or stopped at a step: the same command ends with the same weights.

The judge reads the ledger of the workers (see ``fault_site``) and the last checkpoint.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ophnet_ray.distributed.environment import token_path
from ophnet_ray.distributed.ownership import create_token
from tests.helpers.paths import ROOT, TRAIN_PY
from tests.helpers.runs import flags_of, tiny_config
from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until
from tests.reliability.outcome import Outcome

EPOCHS, WORKERS, INTERVAL = 3, 2, 2
"""Epochs and workers of each run, and steps between its checkpoints."""
STEPS = 7
"""Steps of an epoch: 15 training segments, 2 workers, batches of one window."""
TIMEOUT_S = 600.0

Fault = Mapping[str, Any]
"""A fault of a worker, see ``fault_site``."""


@dataclass(frozen=True)
class Place:
    """Folders of one run.

    Attributes:
        folder: Folder of the run's files.
        data: Folder of the data set; all runs share it and its cache.
    """

    folder: Path
    data: Path

    @property
    def ledger(self) -> Path:
        """Folder of the ledger."""
        return self.folder / "ledger"

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.folder / "runs" / "run" / "checkpoints"

    def command(self, settings: Mapping[str, Any]) -> list[str]:
        """Return the command of the run."""
        defaults = {
            "name": "run",
            "max_epochs": EPOCHS,
            "image_size": 64,
            "batch_size": 1,
            "train_workers": WORKERS,
            "every_n_train_steps": INTERVAL,
            "cache_dir": str(self.data / "cache"),
        }
        csv_path = self.data / "segments.csv"
        config = tiny_config(csv_path, self.folder, **(defaults | settings))
        return [sys.executable, str(TRAIN_PY), *flags_of(config)]

    def environment(self, faults: Sequence[Fault]) -> dict[str, str]:
        """Return the environment of the workers: on a cluster, that of its nodes."""
        self.ledger.mkdir(parents=True, exist_ok=True)
        return os.environ | {
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent / 'fault_site'}",
            "OPHNET_LEDGER": str(self.ledger),
            "OPHNET_FAULT": json.dumps(faults),
        }

    def start(
        self, *faults: Fault, address: str = "local", **settings: Any
    ) -> subprocess.Popen[str]:
        """Start the run on a Ray of its own, or on the cluster at an address."""
        env = self.environment(faults) | {"RAY_ADDRESS": address}
        return subprocess.Popen(
            self.command(settings),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_ledger(self) -> list[dict[str, Any]]:
        """Return the steps of all workers in the order of time."""
        lines = [
            json.loads(line)
            for file in self.ledger.glob("*.jsonl")
            for line in file.read_text().splitlines()
        ]
        return sorted(lines, key=lambda line: line["time_s"])

    def count_in_metrics(self, name: str) -> int:
        """Return the sum of a count over the epochs."""
        lines = (self.checkpoints.parent / "metrics.jsonl").read_text().splitlines()
        return sum(json.loads(line)[name] for line in lines)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights after the last epoch."""
        path = max(self.checkpoints.glob("epoch=*")) / "checkpoint.ckpt"
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return state


def run_kill_worker(n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 a train worker at a step; Ray Train starts the workers again."""
    return run_struck(n, seed, folder, "kill_worker", _kill_worker)


def run_kill_driver(n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 the driver at a step; the same command is given again."""
    return run_struck(
        n, seed, folder, "kill_driver", _strike_driver(signal.SIGKILL, -signal.SIGKILL)
    )


def run_sigterm(n: int, seed: int, folder: Path) -> Outcome:
    """Send SIGTERM at a step: exit code 143 and a checkpoint; the same command is given again."""
    return run_struck(n, seed, folder, "sigterm", _strike_driver(signal.SIGTERM, 143))


def run_sigint(n: int, seed: int, folder: Path) -> Outcome:
    """Press Ctrl-C at a step: exit code 130 and a checkpoint; the same command is given again."""
    return run_struck(n, seed, folder, "sigint", _strike_driver(signal.SIGINT, 130))


def run_nan(n: int, seed: int, folder: Path) -> Outcome:
    """Set the weights of a worker to NaN at a step, once; ``--on_nan rollback`` goes back."""
    return run_struck(n, seed, folder, "nan", _set_nan)


def _set_nan(place: Place, rank: int, step: int) -> None:
    finish(place.start({"what": "nan", "rank": rank, "step": step}, on_nan="rollback"))
    assert place.count_in_metrics("rollbacks") == 1, "not one rollback"
    assert place.count_in_metrics("skipped_steps") == 0, "a step was left out"


def run_nan_batch(n: int, seed: int, folder: Path) -> Outcome:
    """Give a worker a batch of NaN each time, and kill a worker on the way.

    The steps that ``--on_nan rollback`` leaves out, and the weights, are those without the kill.
    """
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    for number in range(n):
        rng = random.Random(f"nan_batch:{seed}:{number}")
        rank, step = rng.randrange(WORKERS), rng.randrange(1, (EPOCHS - 1) * STEPS)
        broken = {"what": "nan_batch", "rank": rank, "step": step}
        # before the first, the second or the third time at that step, or after it
        at, visit = rng.choice([(step, 1), (step, 2), (step, 3), (step + 1, 1)])
        kill = {"what": "kill", "rank": rng.randrange(WORKERS), "step": at, "visit": visit}
        whole, place = (Place(folder / f"{number}-{name}", data) for name in ("whole", "killed"))
        finish(whole.start(broken, on_nan="rollback"))
        wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
        with judged(outcome, place, (broken, kill)):
            finish(place.start(kill, broken, on_nan="rollback"))
            assert (place.ledger / "struck").exists(), "the fault did not happen"
            for name in ("rollbacks", "skipped_steps"):
                counts = [each.count_in_metrics(name) for each in (whole, place)]
                assert counts[0] == counts[1] > 0, f"{counts} {name}"
            judge(place, wanted, windows, 2 * INTERVAL)
    return outcome


def run_struck(n: int, seed: int, folder: Path, name: str, attempt: Any) -> Outcome:
    """Let ``attempt(place, rank, step)`` strike runs at random steps; compare with a whole run."""
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data)
    finish(whole.start())
    wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
    for number in range(n):
        rng = random.Random(f"{name}:{seed}:{number}")
        place = Place(folder / str(number), data)
        # not in the last epoch, which a run may as well end when it is asked to stop
        rank, step = rng.randrange(WORKERS), rng.randrange(1, (EPOCHS - 1) * STEPS)
        with judged(outcome, place, (rank, step)):
            attempt(place, rank, step)
            judge(place, wanted, windows)
    return outcome


@contextmanager
def judged(outcome: Outcome, place: Place, example: object) -> Iterator[None]:
    """Count a run, with its cost, or the assertion that does not hold."""
    try:
        yield
    except AssertionError as error:
        outcome.fail(str(error).splitlines()[0][:80], (example, str(error)[-2000:]))
    else:
        redone, seconds = cost_of(place.read_ledger())
        outcome.add(f"{redone} steps redone")
        outcome.sample("recovery_s", seconds)
        outcome.sample("steps_redone", redone)


def _kill_worker(place: Place, rank: int, step: int) -> None:
    finish(place.start({"what": "kill", "rank": rank, "step": step}))
    assert (place.ledger / "struck").exists(), "the fault did not happen"


def _strike_driver(number: signal.Signals, exit_code: int) -> Any:
    is_request = number != signal.SIGKILL

    def attempt(place: Place, rank: int, step: int) -> None:
        process = place.start({"what": "wait", "rank": rank, "step": step})
        wait_until(
            lambda: process.poll() is not None or (place.ledger / "struck").exists(),
            "the step is reached",
            timeout_s=TIMEOUT_S,
        )
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        heard = read_until(process, "training writes a checkpoint") if is_request else ""
        (place.ledger / "go on").touch()
        text, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == exit_code, f"exit code {process.returncode}\n{heard}{text}"
        _, alive = psutil.wait_procs(below, timeout=180)
        assert not (alive and is_request), f"processes are left: {[p.name() for p in alive]}"
        finish(place.start())

    return attempt


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return what a process prints up to a line with these words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must succeed."""
    text, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, f"exit code {process.returncode}\n{text}"


def judge(
    place: Place,
    wanted: dict[str, torch.Tensor],
    windows: dict[int, Counter[str]],
    max_redone: int = INTERVAL,
) -> None:
    """Compare the weights bit by bit, and the windows of each epoch.

    A step that was trained again counts once: what it did before is in no weight.
    """
    ours = place.weights()
    differing = [name for name, tensor in wanted.items() if not torch.equal(ours[name], tensor)]
    assert not differing, f"weights differ: {differing[:3]}"
    assert windows_by_epoch(place.read_ledger()) == windows, "other windows"
    redone, _ = cost_of(place.read_ledger())
    assert redone <= max_redone, f"{redone} steps redone"
    left = list(place.checkpoints.rglob(".epoch=*"))
    assert not left, f"leftovers: {left}"


def windows_by_epoch(ledger: list[dict[str, Any]]) -> dict[int, Counter[str]]:
    """Count the windows of each epoch; of a step that was repeated, the last time.

    An epoch that another number of workers has begun anew is theirs alone.
    """
    workers = {line["epoch"]: line["workers"] for line in ledger}
    last = {
        (line["epoch"], line["rank"], line["step"]): line["windows"]
        for line in ledger
        if line["workers"] == workers[line["epoch"]]
    }
    counts: dict[int, Counter[str]] = {}
    for (epoch, _, _), windows in last.items():
        counts.setdefault(epoch, Counter()).update(map(str, windows))
    return counts


def cost_of(ledger: list[dict[str, Any]]) -> tuple[int, float]:
    """Return the steps of a worker that were trained twice, and the longest pause in seconds."""
    times = Counter((line["epoch"], line["rank"], line["step"]) for line in ledger)
    twice = Counter(rank for (_, rank, _), count in times.items() if count > 1)
    pauses = np.diff([line["time_s"] for line in ledger])
    return max(twice.values(), default=0), float(pauses.max())


def run_preemption(n: int, seed: int, folder: Path) -> Outcome:
    """Announce that a node leaves, then take it away: a checkpoint at the notice, and no step lost.

    The cluster has a head and two nodes; two workers fit on either.
    """
    return run_struck(n, seed, folder, "preemption", _preempt)


def _preempt(place: Place, rank: int, step: int) -> None:
    fault = {"what": "wait", "rank": rank, "step": step}
    with closed_cluster(place.environment([fault]), num_cpus=3) as (cluster, nodes):
        process = place.start(address=cluster.address)
        try:
            wait_until(
                lambda: process.poll() is not None or (place.ledger / "struck").exists(),
                "the step is reached",
                timeout_s=TIMEOUT_S,
            )
            assert process.poll() is None, f"the run ended\n{process.communicate()[0]}"
            pid = int(next(place.ledger.glob(f"{rank}.*.jsonl")).name.split(".")[1])
            node = next(each for each in nodes if is_below(pid, each))
            drain(cluster.address, node.node_id)
            (place.ledger / "go on").touch()
            unfinished = place.checkpoints / "unfinished"
            wait_until(
                lambda: process.poll() is not None or list(unfinished.glob("epoch=*")),
                "a checkpoint is written at the notice",
                timeout_s=30,
            )
            cluster.remove_node(node, allow_graceful=False)
            finish(process)
        finally:
            process.kill()  # unless it has ended


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


def is_below(pid: int, node: Any) -> bool:
    """Return True if a process was started by a node's raylet."""
    raylet = node.all_processes["raylet"][0].process.pid
    return any(parent.pid == raylet for parent in psutil.Process(pid).parents())


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
