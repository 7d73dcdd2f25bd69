"""The queue of trials of a search, which Ray Tune asks for one after another."""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from ophnet_ray.tune.searcher import Suggestions
from ophnet_ray.tune.trial import outcome_of, read_trial, write_trial_end
from ophnet_ray.tune.trial_task import SCORE, TrialSetup, TrialTask


class TrialQueue(Searcher):
    """Queue of trials: first those that an earlier call left unfinished, then new ones.

    Args:
        setup: Setup of the trials.
        tasks: Trials that are unfinished, or failed.
        next_number: Number of the first new trial.
        num_trials: Number of trials of the whole search.
        suggestions: Source of settings for new trials; None if there are to be none.
    """

    def __init__(
        self,
        setup: TrialSetup,
        tasks: Sequence[TrialTask],
        next_number: int = 0,
        num_trials: int = 0,
        suggestions: Suggestions | None = None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._setup, self._waiting, self._suggestions = setup, list(tasks), suggestions
        self._next_number, self._num_trials = next_number, num_trials
        self._running: dict[str, TrialTask] = {}
        self._starting: set[str] = set()
        self._is_over = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override] # Ray declares no str, and takes FINISHED
        """Return the next trial, or ``FINISHED``; None while one that starts may come back."""
        if self._waiting:
            task = self._waiting.pop(0)
        elif self._suggestions is not None and self._next_number < self._num_trials:
            task = TrialTask(self._next_number, self._suggestions.suggest(self._next_number))
            self._next_number += 1
        elif self._starting:
            return None
        else:
            self._is_over = True  # Tune does not ask again
            return Searcher.FINISHED
        num_folds = len(self._setup.folds) or None
        self._setup.search.start_trial(task.number, task.settings, task.seed, num_folds)
        self._running[trial_id] = task
        self._starting.add(trial_id)
        return {"number": task.number, "settings": dict(task.settings), "seed": task.seed}

    def note_start(self, trial_id: str) -> None:
        """Note that a trial has its process."""
        self._starting.discard(trial_id)

    def holds(self, trial_id: str) -> bool:
        """Return True for a trial that was given to Tune and has not come back."""
        return trial_id in self._running

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the outcome in the trial's folder to the searcher.

        That of a trial with an error is passed on by ``end_lost``, which Tune's callbacks call
        next: they know the reason.
        """
        if not error:
            self._take_outcome(trial_id)

    def end_lost(self, trial_id: str, reason: str, *, may_start_again: bool) -> None:
        """End a trial that Tune has given up: as failed, unless its folder says how it ended.

        Args:
            trial_id: The trial.
            reason: Why, in one line.
            may_start_again: The trial goes back into the queue, if Tune still asks for trials.
        """
        task = self._running[trial_id]
        run = self._setup.search.trial_run(task.number, task.seed)
        trial = read_trial(run.path)
        if not trial.has_ended:
            if may_start_again and not self._is_over:
                self._waiting.append(task)
                del self._running[trial_id]
                self._starting.discard(trial_id)
                return
            write_trial_end(run, "failed", len(trial.history), reason)
        self._take_outcome(trial_id)

    def _take_outcome(self, trial_id: str) -> None:
        task = self._running.pop(trial_id)
        self._starting.discard(trial_id)
        trial = read_trial(self._setup.search.trial_run(task.number, task.seed).path)
        outcome = outcome_of(trial, self._setup.metric)
        if self._suggestions is not None and outcome is not None:
            self._suggestions.record(task.number, task.settings, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: search state is rebuilt from the trial folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: search state is rebuilt from the trial folders."""
