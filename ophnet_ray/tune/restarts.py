"""Restarts of trials whose process is lost: killed, out of memory, or gone with its machine.

Uses undocumented parts of Ray (``Trial.max_failures``, and the two modules that compare an error
with ``RayActorError``): check them when Ray is updated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial as RayTrial

from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import has_end
from ophnet_ray.tune.trial_pulse import delete_pulse
from ophnet_ray.tune.trial_queue import TrialQueue

Positions = dict[str, tuple[int, int]]
"""Whole epochs, and steps of the next one, of the newest checkpoint; by run, of folds several."""
MAX_REASON_CHARS = 200


class CountRestarts(ray.tune.Callback):
    """Callback that lets a trial start again as often as there is a new checkpoint in between.

    Ray counts the losses of a whole trial. One of days on machines that come and go would use them
    up, though it advances each time.

    Args:
        search: Folder of the search.
        queue: Its trials; it learns which of them Ray has given up.
        warn: Receives a line when a trial starts again, with the cause.
    """

    def __init__(
        self, search: SearchDirectory, queue: TrialQueue, warn: Callable[[str], None]
    ) -> None:
        self._search, self._queue, self._warn = search, queue, warn
        self._reached: dict[str, Positions] = {}

    def __reduce__(self) -> tuple[type[ray.tune.Callback], tuple[()]]:
        """Leave a callback that does nothing in Ray's record of the search: nothing reads it."""
        return ray.tune.Callback, ()

    def on_trial_start(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Note where a trial begins, which an earlier call may have trained in part."""
        self._queue.note_start(trial.trial_id)
        self._reached.setdefault(trial.trial_id, self._find_positions(trial))

    def on_trial_recover(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Forget the earlier losses of a trial that has advanced since the last one.

        Ray calls this before it starts the next process: the pulse is that of the lost one.
        """
        positions = self._find_positions(trial)
        before = self._reached.get(trial.trial_id, {})
        if any(reached > before.get(name, (0, 0)) for name, reached in positions.items()):
            trial.max_failures = trial.num_failures + MAX_WORKER_FAILURES
        self._reached[trial.trial_id] = positions
        run = self._run_of(trial)
        delete_pulse(run.path)
        if not has_end(run):  # else Ray only ends the process, which is fit for no other trial
            self._warn(f"trial {run.path.name} starts again: {_describe_error(trial)}")

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """End a trial that has no process any more, or put it back into the queue.

        Ray also gives up a trial whose process is lost while the trial takes it over: it handles
        the loss twice, and the second time the trial is not running. It keeps its restarts. Such
        a process has served another trial before, so that this cannot go on for ever.
        """
        delete_pulse(self._run_of(trial).path)
        self._queue.end_lost(
            trial.trial_id, _describe_error(trial), may_start_again=trial.should_recover()
        )

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Put back trials that Ray gave up without a call of ``on_trial_error``.

        It does so where a process does not leave the trial before in ``STOP_TIMEOUT_S`` seconds.
        The trial has not begun then, and Ray ends the process.
        """
        for trial in trials:
            if trial.status == RayTrial.ERROR and self._queue.holds(trial.trial_id):
                self._queue.end_lost(trial.trial_id, _describe_error(trial), may_start_again=True)

    def _find_positions(self, trial: RayTrial) -> Positions:
        run = self._run_of(trial)
        folders = [run.checkpoints, *run.path.glob("fold*/checkpoints")]
        return {folder.parent.name: newest_position(folder) for folder in folders}

    def _run_of(self, trial: RayTrial) -> RunDirectory:
        return self._search.trial_run(trial.config["number"], trial.config["seed"])


def _describe_error(trial: RayTrial) -> str:
    """Return the latest error of a trial in one line, from Ray's record of its errors."""
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text() if file is not None and file.exists() else ""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:]]
    told = [line for line in lines if line]
    if not told:
        return "its process is lost"
    # a traceback ends with its cause; the loss of a process begins with what happened
    shown = told[-1:] if "ray::" in told[0] else dict.fromkeys([told[0], told[-1]])
    return " ".join(shown)[:MAX_REASON_CHARS]


def count_memory_kills_as_losses() -> None:
    """Let Tune take a trial that Ray ended to save the memory of its machine for one that died.

    For a trial of one process Ray raises an error that Tune does not know; it ends the search.
    """
    lost = (RayActorError, OutOfMemoryError)
    modules: list[Any] = [actor_manager, tune_controller]
    for module in modules:
        module.RayActorError = lost
