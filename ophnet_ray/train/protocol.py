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
from ophnet_ray.signals import StopRequest
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

    def __repr__(self) -> str:
        """Name the run only: Ray Train shows this text in the dashboard, and cases are private."""
        return f"TrainLoopConfig(run={self.run.name!r})"


@ray.remote(num_cpus=0, max_restarts=-1)
class TrainingStatus:
    """Training progress: an actor that the workers update and the driver polls."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}, "warnings": []}
        self._status["stop"] = False

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        self._status |= fields

    def warn(self, text: str) -> None:
        """Add a line for the user's console."""
        self._status["warnings"].append(text)

    def stop(self) -> None:
        """Ask the workers to write a checkpoint and to stop."""
        self._status["stop"] = True

    def get(self) -> dict[str, Any]:
        """Return the status.

        ``epoch`` and ``step`` done, ``metrics`` of the last whole epoch, all ``warnings``, and
        ``stop``: True once the workers are asked to stop.
        """
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
        warn: Prints a warning.
        request: Signals to this process; the first one asks the workers to stop.
    """

    def __init__(
        self,
        status: Any,
        stage: Stage,
        steps_per_epoch: int,
        warn: Callable[[str], None],
        request: StopRequest,
    ) -> None:
        self._status, self._stage, self._steps_per_epoch = status, stage, steps_per_epoch
        self._warn, self._num_warned = warn, 0
        self._request, self._is_stopping = request, False

    def run(self, fit: Callable[[], T]) -> T:
        """Call ``fit`` and show the status until it returns."""
        return run_watched(fit, self._show, REFRESH_S)

    def _show(self) -> None:
        if self._request.signal_name and not self._is_stopping:
            self._is_stopping = True
            self._warn(
                f"{self._request.signal_name}: training writes a checkpoint and stops; a second "
                "signal ends it at once"
            )
            self._status.stop.remote()
        try:
            status = ray.get(self._status.get.remote())
        except ActorUnavailableError:
            return  # it restarts elsewhere; training does not depend on it
        for warning in status["warnings"][self._num_warned :]:
            self._warn(warning)
        self._num_warned = len(status["warnings"])
        text = "epochs"
        detail = f", step {status['step']}/{self._steps_per_epoch}" if status["step"] else ""
        if metrics := status["metrics"]:
            text += (
                f", loss {metrics['train_loss']:.3f}, val_acc {metrics['val_acc']:.3f}, "
                f"val_macro_f1 {metrics['val_macro_f1']:.3f}"
            )
        self._stage.update(status["epoch"], text, detail)
