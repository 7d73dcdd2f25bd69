"""The Ray Tune tuner of a search, and the queue of trials that it trains.

Nothing is read back from Ray's own record of a search, which lags behind when the driver is killed:
searcher and scheduler take the past from the trials' folders.
"""

import shutil
from collections.abc import Sequence
from typing import Any

import ray.tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES
from ophnet_ray.tune.restarts import CountRestarts, take_memory_kills_for_losses
from ophnet_ray.tune.searcher import Suggestions
from ophnet_ray.tune.trial import outcome_of, read_trial
from ophnet_ray.tune.trial_task import SCORE, TrialSetup, TrialTask, run_trial


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

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override] # Ray declares no str, and takes FINISHED
        """Return the next trial, or ``FINISHED``."""
        if self._waiting:
            task = self._waiting.pop(0)
        elif self._suggestions is not None and self._next_number < self._num_trials:
            task = TrialTask(self._next_number, self._suggestions.suggest(self._next_number))
            self._next_number += 1
        else:
            return Searcher.FINISHED
        num_folds = len(self._setup.folds) or None
        self._setup.search.start_trial(task.number, task.settings, task.seed, num_folds)
        self._running[trial_id] = task
        return {"number": task.number, "settings": dict(task.settings), "seed": task.seed}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the outcome in the trial's folder to the searcher."""
        task = self._running.pop(trial_id)
        trial = read_trial(self._setup.search.trial_run(task.number, task.seed).path)
        outcome = outcome_of(trial, self._setup.metric)
        if self._suggestions is not None and outcome is not None:
            self._suggestions.record(task.number, task.settings, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: search state is rebuilt from the trial folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: search state is rebuilt from the trial folders."""


def build_tuner(
    setup: TrialSetup,
    queue: TrialQueue,
    scheduler: TrialScheduler,
    num_trials: int,
    time_budget_s: float | None = None,
) -> ray.tune.Tuner:
    """Build the tuner that trains the trials of a queue; ``fit()`` starts it.

    Ray's record of an earlier call is deleted.
    """
    records = setup.search.run.logs / "ray-tune"
    shutil.rmtree(records, ignore_errors=True)
    take_memory_kills_for_losses()
    trainable = ray.tune.with_parameters(run_trial, setup=setup)
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, setup.plan.process_resources),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=queue,
            scheduler=scheduler,
            num_samples=num_trials,
            max_concurrent_trials=setup.plan.max_concurrent,
            time_budget_s=time_budget_s,
            reuse_actors=setup.plan.trains_alone,
        ),
        run_config=ray.tune.RunConfig(
            name=records.name,
            storage_path=str(records.parent),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=MAX_WORKER_FAILURES),
            callbacks=[CountRestarts(setup.search)],
        ),
    )
