"""Messages between the driver and the train workers: the task of a worker, and its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError

from ophnet_ray.config import Config
from ophnet_ray.console import Stage, run_watched
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.run_directory import RunDirectory

T = TypeVar("T")

REFRESH_S = 0.5


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


@ray.remote(num_cpus=0, max_restarts=-1)
class TrainingStatus:
    """Training progress: an actor that the workers update and the driver polls."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}}

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        self._status |= fields

    def get(self) -> dict[str, Any]:
        """Return ``epoch`` and ``step`` done, and ``metrics`` of the last whole epoch."""
        return self._status


def start_status(run_name: str) -> Any:
    """Start a ``TrainingStatus`` and return its handle; the dashboard shows the run's name."""
    named: Any = TrainingStatus.options(name=f"train status of {run_name}")  # type: ignore[attr-defined] # added by ray.remote
    return named.remote()


class TrainingWatch:
    """Progress of the workers on a console stage.

    Args:
        status: Handle of a ``TrainingStatus``.
        stage: Counts epochs.
        steps_per_epoch: Steps of each worker.
    """

    def __init__(self, status: Any, stage: Stage, steps_per_epoch: int) -> None:
        self._status, self._stage, self._steps_per_epoch = status, stage, steps_per_epoch

    def run(self, fit: Callable[[], T]) -> T:
        """Call ``fit`` and show the status until it returns."""
        return run_watched(fit, self._show, REFRESH_S)

    def _show(self) -> None:
        try:
            status = ray.get(self._status.get.remote())
        except ActorUnavailableError:
            return  # it restarts elsewhere; training does not depend on it
        text = "epochs"
        detail = f", step {status['step']}/{self._steps_per_epoch}" if status["step"] else ""
        if metrics := status["metrics"]:
            text += (
                f", loss {metrics['train_loss']:.3f}, val_acc {metrics['val_acc']:.3f}, "
                f"val_macro_f1 {metrics['val_macro_f1']:.3f}"
            )
        self._stage.update(status["epoch"], text, detail)
