"""Restarts of trials whose process is lost: killed, out of memory, or gone with its machine.

Uses undocumented parts of Ray (``Trial.max_failures``, and the two modules that compare an error
with ``RayActorError``): check them when Ray is updated.
"""

import logging
from typing import Any

import ray.tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial as RayTrial

from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES
from ophnet_ray.tune.directory import SearchDirectory

logger = logging.getLogger(__name__)

Positions = tuple[tuple[int, int], ...]
"""Whole epochs, and steps of the next one, of the newest checkpoint; of folds, one for each."""


class CountRestarts(ray.tune.Callback):
    """Callback that lets a trial start again as often as there is a new checkpoint in between.

    Ray counts the losses of a whole trial. One of days on machines that come and go would use them
    up, though it advances each time.

    Args:
        search: Folder of the search.
    """

    def __init__(self, search: SearchDirectory) -> None:
        self._search = search
        self._reached: dict[str, Positions] = {}

    def on_trial_start(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Note where a trial begins, which an earlier call may have trained in part."""
        self._reached.setdefault(trial.trial_id, self._find_positions(trial))

    def on_trial_recover(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Forget the earlier losses of a trial that has advanced since the last one."""
        positions = self._find_positions(trial)
        if positions > self._reached.get(trial.trial_id, ()):
            trial.max_failures = trial.num_failures + MAX_WORKER_FAILURES
        self._reached[trial.trial_id] = positions
        logger.warning("trial %d: its process is lost; it starts again", trial.config["number"])

    def _find_positions(self, trial: RayTrial) -> Positions:
        run = self._search.trial_run(trial.config["number"], trial.config["seed"])
        folders = [run.checkpoints, *sorted(run.path.glob("fold*/checkpoints"))]
        return tuple(map(newest_position, folders))


def take_memory_kills_for_losses() -> None:
    """Let Tune take a trial that Ray ended to save the memory of its machine for one that died.

    For a trial of one process Ray raises an error that Tune does not know; it ends the search.
    """
    lost = (RayActorError, OutOfMemoryError)
    modules: list[Any] = [actor_manager, tune_controller]
    for module in modules:
        module.RayActorError = lost
