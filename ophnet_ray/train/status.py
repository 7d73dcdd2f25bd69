"""How far training is: written by the workers, shown by the driver."""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError

from ophnet_ray.console import Stage, run_watched

T = TypeVar("T")

REFRESH_S = 0.5


@ray.remote(num_cpus=0, max_restarts=-1)
class TrainingStatus:
    """Where the workers write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}}

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        self._status |= fields

    def get(self) -> dict[str, Any]:
        """``epoch`` and ``step`` done, ``metrics`` of the last whole epoch."""
        return self._status


class TrainingWatch:
    """Show the status while the workers train.

    Args:
        status: Handle of a ``TrainingStatus``.
        stage: Counts epochs.
        steps_per_epoch: Of each worker.
    """

    def __init__(self, status: Any, stage: Stage, steps_per_epoch: int) -> None:
        self._status, self._stage, self._steps_per_epoch = status, stage, steps_per_epoch

    def run(self, fit: Callable[[], T]) -> T:
        """Show the status while ``fit`` runs."""
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
