"""Search space and base run → a ``Tuner`` whose trials are whole training runs.

Each trial is a driver function that builds a ``TorchTrainer`` of its own and waits for it, Ray's
pattern since Train V2. Nothing is read back from Ray's own record of a search, which is behind when
its driver is killed: what happened before is told to the searcher and the scheduler from the
trials' folders.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.console import log_to
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.trainer import fit_run
from ophnet_ray.tune.config import Metric, SearchConfig
from ophnet_ray.tune.directory import (
    SearchDirectory,
    Trial,
    best_record,
    end_trial,
    finished_epochs,
    outcome_of,
    read_trial,
)
from ophnet_ray.tune.resources import DRIVER_CPUS, TrialPlan
from ophnet_ray.tune.searcher import Suggestions

REDUCTION_FACTOR = 3
"""Of ASHA: at each rung the best third goes on."""
EPOCHS, SCORE = "epochs", "score"
"""What a trial reports after each epoch: how many are done, and the metric at the best of them."""


@dataclass(frozen=True)
class TrialSetup:
    """All that a trial is told beside its settings.

    ``manifests`` holds one for each way of cutting windows that the search may ask for.
    """

    search: SearchDirectory
    plan: TrialPlan
    manifests: Mapping[WindowConfig, Manifest]
    data_hash: str
    metric: Metric


@dataclass(frozen=True, slots=True)
class TrialTask:
    """A trial to be run; ``seed`` for the repeat of a finalist."""

    number: int
    settings: Mapping[str, Any]
    seed: int | None = None


def trial_config(base: Config, settings: Mapping[str, Any], seed: int | None) -> Config:
    """The training run of a trial."""
    config = base.replace_flat(**settings)
    return config if seed is None else config.replace_flat(seed=seed)


def run_trial(task: dict[str, Any], setup: TrialSetup) -> None:
    """What Ray Tune calls for a trial: train, or go on, and note how it ended.

    Epochs that were trained before a restart are reported first, so that the scheduler decides on
    them as it would have done.

    Raises:
        TrainingError: Training failed; the reason is in the trial's folder, too.
    """
    run = setup.search.trial_run(task["number"], task["seed"])
    log_to(run.logs / "trial.log")
    config = trial_config(setup.plan.base, task["settings"], task["seed"])
    run.write_config(config)
    report = _Report(setup.metric)
    for record in finished_epochs(run):
        ray.tune.report(report.describe(record))
    manifest = setup.manifests[config.windows]
    loop = TrainLoopConfig(config, manifest, setup.plan.resources, run, setup.data_hash)
    try:
        fit_run(loop, [_ReportToTune(report)])
    except (TrainingError, UserError) as error:
        end_trial(run, "failed", len(run.read_metrics()), str(error))
        raise
    end_trial(run, "finished", len(run.read_metrics()))


def build_tuner(
    setup: TrialSetup,
    search_alg: Searcher,
    scheduler: TrialScheduler,
    num_samples: int,
    time_budget_s: float | None,
) -> ray.tune.Tuner:
    """The Ray Tune tuner; ``fit()`` starts it."""
    records = setup.search.run.logs / "ray-tune"
    shutil.rmtree(records, ignore_errors=True)
    trainable = ray.tune.with_parameters(run_trial, setup=setup)
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, {"CPU": DRIVER_CPUS}),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=search_alg,
            scheduler=scheduler,
            num_samples=num_samples,
            max_concurrent_trials=setup.plan.max_concurrent,
            time_budget_s=time_budget_s,
        ),
        run_config=ray.tune.RunConfig(
            name=records.name, storage_path=str(records.parent), verbose=0
        ),
    )


def build_scheduler(search: SearchConfig, setup: TrialSetup) -> TrialScheduler:
    """ASHA, knowing the trials that have ended; or none."""
    max_epochs = setup.plan.base.training.max_epochs
    if search.scheduler == "none" or search.grace_period >= max_epochs:
        return FIFOScheduler()
    scheduler = _Asha(setup, search.grace_period, max_epochs)
    for trial in setup.search.trials():
        scheduler.replay(trial)
    return scheduler


class TrialQueue(Searcher):
    """Hand out trials: those that a search before did not finish, then new ones.

    Args:
        setup: Of the trials.
        tasks: Unfinished trials, and those that failed.
        next_number: Of the first new trial.
        num_trials: Trials in all.
        suggestions: Chooses the settings of new ones; None when there are to be none.
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

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial, or that there is none."""
        if self._waiting:
            task = self._waiting.pop(0)
        elif self._suggestions is not None and self._next_number < self._num_trials:
            task = TrialTask(self._next_number, self._suggestions.suggest(self._next_number))
            self._next_number += 1
        else:
            return Searcher.FINISHED
        self._setup.search.start_trial(task.number, task.settings, task.seed)
        self._running[trial_id] = task
        return {"number": task.number, "settings": dict(task.settings), "seed": task.seed}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that has ended, as its folder tells it."""
        task = self._running.pop(trial_id)
        trial = read_trial(self._setup.search.trial_run(task.number, task.seed).path)
        outcome = outcome_of(trial, self._setup.metric)
        if self._suggestions is not None and outcome is not None:
            self._suggestions.tell(task.number, task.settings, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' folders tell all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


class _Asha(ASHAScheduler):
    """Asynchronous successive halving (arXiv:1810.05934), which notes whom it stops."""

    def __init__(self, setup: TrialSetup, grace_period: int, max_epochs: int) -> None:
        super().__init__(
            time_attr=EPOCHS,
            metric=SCORE,
            mode="max",
            max_t=max_epochs,
            grace_period=grace_period,
            reduction_factor=REDUCTION_FACTOR,
        )
        self._setup = setup

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are known already."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on."""
        if result[EPOCHS] >= self._max_t:
            # it ends by itself, and keeps its answer
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            run = self._setup.search.trial_run(trial.config["number"], trial.config["seed"])
            end_trial(run, "stopped", result[EPOCHS], "behind other trials at this epoch")
        return decision

    def replay(self, trial: Trial) -> None:
        """Take the results of a trial that has ended into the rungs."""
        if trial.state not in ("finished", "stopped"):
            return
        past: Any = _PastTrial(trial.name)
        nobody: Any = None  # ASHA asks nothing of Tune's controller
        report = _Report(self._setup.metric)
        self.on_trial_add(nobody, past)
        for record in trial.history[: self._max_t - 1]:
            super().on_trial_result(nobody, past, report.describe(record))
        self.on_trial_remove(nobody, past)


@dataclass(frozen=True, slots=True)
class _PastTrial:
    """What ASHA asks of a trial."""

    trial_id: str


class _Report:
    """Epochs in, what Tune is told of them out."""

    def __init__(self, metric: Metric) -> None:
        self._metric: Metric = metric
        self._history: list[Mapping[str, float]] = []

    def describe(self, record: Mapping[str, float]) -> dict[str, float]:
        """``epochs`` so far and the metric at the best one."""
        self._history.append(record)
        return {EPOCHS: len(self._history), SCORE: best_record(self._history)[self._metric]}


class _ReportToTune(TuneReportCallback):
    """Pass what the first train worker reports on to Tune, with the score."""

    def __init__(self, report: _Report) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray gives it no types
        self._report = report

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """After each epoch."""
        super().after_report(run_context, [self._report.describe(metrics[0])], None)
