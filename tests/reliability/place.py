"""A run of the harness: its folders, its command, its ledger, and its driver process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.helpers.paths import ROOT, TRAIN_PY
from tests.helpers.runs import flags_of, tiny_config
from tests.helpers.waiting import wait_until

EPOCHS, WORKERS, INTERVAL = 3, 2, 2
"""Epochs and workers of each run, and steps between its checkpoints."""
STEPS = 7
"""Steps of an epoch: 15 training segments, 2 workers, batches of one window."""
TIMEOUT_S = 1_200.0
"""Time limit of a run; one takes a minute on two quiet cores."""
SLOW = {"what": "slow", "seconds": 0.5}
LONG_EPOCHS = 12
"""Epochs of a run that others outlast; with ``SLOW``, a minute."""

Fault = Mapping[str, Any]
"""A fault of a worker, see ``fault_site``."""


@dataclass(frozen=True)
class Place:
    """Folders of one run.

    Attributes:
        folder: Folder of the run's files.
        data: Folder of the data set; all runs share it and its cache.
        train_workers: Workers of the run; None for one in the process of the command.
        settings: Further settings of the run.
    """

    folder: Path
    data: Path
    train_workers: int | None = WORKERS
    settings: Mapping[str, Any] = field(default_factory=dict)

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
            "train_workers": self.train_workers,
            "every_n_train_steps": INTERVAL,
            "cache_dir": str(self.data / "cache"),
        }
        csv_path = self.data / "segments.csv"
        config = tiny_config(csv_path, self.folder, **(defaults | dict(self.settings) | settings))
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


@contextmanager
def started(
    place: Place, *faults: Fault, address: str = "local", **settings: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a run, and end its driver with the context, unless it has ended."""
    process = place.start(*faults, address=address, **settings)
    try:
        yield process
    finally:
        process.kill()


def wait_at(rank: int, step: int) -> Fault:
    """Return the fault of a worker that waits at a step until the harness has struck."""
    return {"what": "wait", "rank": rank, "step": step}


def await_step(place: Place, process: subprocess.Popen[str]) -> None:
    """Wait until a worker has come to the step of its fault."""
    await_while_running(process, (place.ledger / "struck").exists, "the step is reached")


def await_while_running(
    process: subprocess.Popen[str],
    holds: Callable[[], object],
    what: str,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Wait for a condition that comes true before the driver ends."""
    wait_until(lambda: process.poll() is not None or holds(), what, timeout_s=timeout_s)
    assert process.poll() is None, f"{what}: the run ended\n{process.communicate()[0]}"


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Return what a process prints up to a line with these words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


def strike_driver(
    place: Place, process: subprocess.Popen[str], number: signal.Signals, exit_code: int
) -> None:
    """Send a signal to a driver whose worker waits for it, and wait until all has ended."""
    is_request = number != signal.SIGKILL
    below = psutil.Process(process.pid).children(recursive=True)
    for each in below if number == signal.SIGHUP else []:
        each.send_signal(number)
    process.send_signal(number)
    heard = read_until(process, "training writes a checkpoint") if is_request else ""
    (place.ledger / "go on").touch()
    text = _await_end(process)
    assert process.returncode == exit_code, f"exit code {process.returncode}\n{heard}{text}"
    _, alive = psutil.wait_procs(below, timeout=180)
    assert not (alive and is_request), f"processes are left: {[p.name() for p in alive]}"


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must succeed; return what it printed."""
    text = _await_end(process)
    assert process.returncode == 0, f"exit code {process.returncode}\n{text}"
    return text


def _await_end(process: subprocess.Popen[str]) -> str:
    """Wait for a run to end, and end it if it does not; return what it printed."""
    try:
        return process.communicate(timeout=TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        raise AssertionError(f"no end within {TIMEOUT_S:.0f} s\n{text}") from None
