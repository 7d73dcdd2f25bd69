"""Trials that end their process, for tests of what follows."""

import os

import ray.tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ophnet_ray.tune.trial import write_trial_end
from ophnet_ray.tune.trial_task import EPOCHS, SCORE

LEAVES_NO_PROCESS, NEXT, SOUND, NEVER_REPORTS, DIVERGES = range(5)
"""The process of the first ends while the next trial takes it over."""


def run_lost_trial(task, setup):
    """Stand in for ``run_trial``."""
    run = setup.search.trial_run(task["number"], task["seed"])
    if task["number"] == NEVER_REPORTS:
        os._exit(1)
    if task["number"] == DIVERGES:
        write_trial_end(run, "diverged", 0)
        return
    try:
        ray.tune.report({EPOCHS: 1, SCORE: 0.5})
        ray.tune.report({EPOCHS: 2, SCORE: 0.5})
    finally:
        if task["number"] == LEAVES_NO_PROCESS:
            os._exit(1)
    write_trial_end(run, "finished", 0)


class StopFirst(FIFOScheduler):
    """Scheduler that stops the first trial after an epoch."""

    def __init__(self, search):
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller, trial, result):
        """Stop or continue."""
        if trial.config["number"] != LEAVES_NO_PROCESS:
            return TrialScheduler.CONTINUE
        write_trial_end(self._search.trial_run(LEAVES_NO_PROCESS), "stopped", 0)
        return TrialScheduler.STOP
