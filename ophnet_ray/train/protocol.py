"""Messages between the driver and the train workers: the task of a worker, and its progress."""

import time
from dataclasses import dataclass
from typing import Any

import ray

from ophnet_ray.config import Config
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.heartbeat import Position, Pulse
from ophnet_ray.train.run_directory import RunDirectory


@dataclass(frozen=True)
class TrainLoopConfig:
    """Everything the driver sends to a train worker.

    ``status`` is the handle of a ``TrainingStatus``, None where nobody watches.
    """

    config: Config
    manifest: Manifest
    resources: Resources
    run: RunDirectory
    data_hash: str
    status: Any = None

    def __repr__(self) -> str:
        """Name the run only: Ray Train shows this text in the dashboard, and cases are private."""
        return f"TrainLoopConfig(run={self.run.name!r})"


@ray.remote(num_cpus=0, max_restarts=-1)
class TrainingStatus:
    """Training progress: an actor that the workers update and the driver polls."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}, "warnings": []}
        self._status["stop"] = False
        self._heard: dict[int, tuple[float, float, Position]] = {}

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        self._status |= fields

    def warn(self, text: str) -> None:
        """Add a line for the user's console."""
        self._status["warnings"].append(text)

    def beat(self, rank: int, position: Position) -> None:
        """Remember where a worker is, and when it was heard and moved."""
        now_s = time.monotonic()
        _, moved_s, before = self._heard.get(rank, (now_s, now_s, position))
        self._heard[rank] = (now_s, now_s if position != before else moved_s, position)

    def stop(self) -> None:
        """Ask the workers to write a checkpoint and to stop."""
        self._status["stop"] = True

    def get(self) -> dict[str, Any]:
        """Return the status.

        ``epoch`` and ``step`` done, ``metrics`` of the last whole epoch, all ``warnings``,
        ``stop``: True once the workers are asked to stop, and the ``pulses`` of the workers by
        rank.
        """
        now_s = time.monotonic()
        pulses = {
            rank: Pulse(position, now_s - heard_s, now_s - moved_s)
            for rank, (heard_s, moved_s, position) in self._heard.items()
        }
        return self._status | {"pulses": pulses}


def start_status(run_name: str) -> Any:
    """Start a ``TrainingStatus`` and return its handle; the dashboard shows the run's name."""
    named: Any = TrainingStatus.options(name=f"train status of {run_name}")  # type: ignore[attr-defined] # added by ray.remote
    return named.remote()
