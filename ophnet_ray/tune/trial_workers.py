"""Training of a trial on workers of Ray Train, which its process starts and waits for.

Ray's pattern since Train V2: a driver function that builds a ``TorchTrainer`` of its own. The
callback passes the scores on to Tune.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.trainer import fit_run


def fit_on_workers(
    loop: TrainLoopConfig, describe: Callable[[Mapping[str, float]], dict[str, float]]
) -> None:
    """Train a trial on the workers, or resume where they stopped.

    Args:
        loop: The training.
        describe: Returns Tune's result of an epoch, from its record.

    Raises:
        DivergedError: The loss is not finite.
        TrainingError: The workers failed.
    """
    fit_run(loop, [_ReportToTune(describe)])


class _ReportToTune(TuneReportCallback):
    """Callback that passes the first train worker's reports on to Tune, with the score."""

    def __init__(self, describe: Callable[[Mapping[str, float]], dict[str, float]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray gives it no types
        self._describe = describe

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Report an epoch."""
        super().after_report(run_context, [self._describe(metrics[0])], None)
