"""Early stopping of trials that are worse than the best one on the same validation cases.

Each case is compared with itself: a difficult one lowers both scores. So few cases can tell a trial
that is worse on nearly all of them, and an equal one is rarely stopped, however many trials there
are. (ASHA stops two thirds of them, whatever their scores.)
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState, create_trial
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ophnet_ray.train.epoch_counts import EpochCounts, read_epoch_counts
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_paths import RunPaths
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.searcher import create_study
from ophnet_ray.tune.trial import (
    History,
    Trial,
    best_record,
    has_passed,
    write_trial_end,
    write_trial_pass,
)
from ophnet_ray.tune.trial_counts import ROW_SCORES, select_counts
from ophnet_ray.tune.trial_task import EPOCHS, TrialSetup
from ophnet_ray.wording import say_count

P_THRESHOLD = 0.05
"""Largest p-value at which a trial is stopped."""
MIN_CASES = 5
"""The smallest p-value of 4 cases is 1/16."""


def is_behind(scores: Sequence[float], best_scores: Sequence[float]) -> bool:
    """Return True if a trial is worse than the best one, by Wilcoxon's signed-rank test.

    The test is one-sided, at ``P_THRESHOLD``: Optuna's ``WilcoxonPruner``, which also asks that the
    mean over the cases is lower.

    Args:
        scores: Scores of the trial on single cases.
        best_scores: Those of the best trial on the same cases.
    """
    study = create_study()
    study.add_trial(
        create_trial(
            value=float(np.mean(best_scores)), intermediate_values=dict(enumerate(best_scores))
        )
    )
    running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(scores)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = WilcoxonPruner(p_threshold=P_THRESHOLD)
    return pruner.prune(study, running)


class PairedStopping(FIFOScheduler):
    """Scheduler that compares each trial with the best finished one, after as many epochs.

    All that decides is in the folders of the trials, which outlive it. A resumed trial reports its
    epochs again; it is not compared again at a rung that an earlier call let it pass.

    Args:
        setup: Setup of the trials.
        rungs: Numbers of epochs after which trials are compared.
    """

    def __init__(self, setup: TrialSetup, rungs: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray gives it no types
        self._setup, self._rungs = setup, frozenset(rungs)
        self._trained = {trial.name: len(trial.history) for trial in setup.search.trials()}

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Decide whether a trial continues; that of the settings as given always does."""
        num_epochs, settings = result[EPOCHS], trial.config["settings"]
        if num_epochs not in self._rungs or self._setup.is_base(settings):
            return TrialScheduler.CONTINUE
        run = self._setup.search.trial_run(trial.config["number"], trial.config["seed"])
        if num_epochs < self._trained.get(run.path.name, 0) or has_passed(run, num_epochs):
            return TrialScheduler.CONTINUE
        best = find_best(self._setup.search.trials(), self._setup.metric)
        if best is None or not self._is_worse(run, best, num_epochs):
            write_trial_pass(run, num_epochs)
            return TrialScheduler.CONTINUE
        epochs = say_count(num_epochs, "epoch")
        reason = f"worse than trial {best.name} on the same cases after {epochs}"
        write_trial_end(run, "stopped", num_epochs, reason)
        return TrialScheduler.STOP

    def _is_worse(self, run: RunDirectory, best: Trial, num_epochs: int) -> bool:
        own = _read_counts(run, run.read_metrics()[:num_epochs])
        other = _read_counts(best.run, best.history[:num_epochs])
        # the counts of equal cases are in equal order
        if own is None or other is None or own.cases != other.cases:
            return False
        return is_behind(self._score_cases(own, run), self._score_cases(other, best.run))

    def _score_cases(self, counts: EpochCounts, run: RunPaths) -> list[float]:
        metric = self._setup.metric
        selected = select_counts(counts, metric, run)
        scores = ROW_SCORES[metric](selected.astype(np.float64))
        return [float(score) for score in scores]


def _read_counts(run: RunPaths, history: History) -> EpochCounts | None:
    """Read the counts at the best epoch of a history; None if they are unknown."""
    return read_epoch_counts(run, int(best_record(history)["epoch"]))


def find_best(trials: Sequence[Trial], metric: RankedMetric) -> Trial | None:
    """Return the finished trial with the highest score, the first of equal ones; None without."""
    finished = [trial for trial in trials if trial.state == "finished"]
    scores = [trial.scored[metric] for trial in finished]
    return finished[scores.index(max(scores))] if finished else None
