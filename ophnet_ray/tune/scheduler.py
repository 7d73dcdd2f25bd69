"""Early stopping of trials: asynchronous successive halving, with the results of past calls.

The other way is in ``paired_stopping``.

This is the one module of ``tune`` that relies on more of Ray than it documents. Before an upgrade
of Ray, check in ``ray/tune/schedulers/async_hyperband.py`` that

- ``on_trial_add``, ``on_trial_result`` and ``on_trial_remove`` of ``ASHAScheduler`` do not use the
  ``tune_controller`` that they are given, and read nothing but ``trial_id`` from the trial:
  ``replay`` calls them with a stand-in, before there is a controller;
- ``set_search_properties`` does nothing but set the metric and the mode: it is skipped here;
- a result at ``max_t`` ends a trial: such results are kept away from ASHA, since the trial ends by
  itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ophnet_ray.data.segments import Segment
from ophnet_ray.tune.config import SearchConfig
from ophnet_ray.tune.paired_stopping import MIN_CASES, PairedStopping
from ophnet_ray.tune.trial import Trial, has_passed, write_trial_end, write_trial_pass
from ophnet_ray.tune.trial_task import EPOCHS, SCORE, TrialProgress, TrialSetup

REDUCTION_FACTOR = 3
"""Of ASHA: at each rung the best third continues."""


def build_scheduler(search: SearchConfig, setup: TrialSetup) -> TrialScheduler:
    """Build the scheduler of a search; ASHA starts with the results of the trials that ended.

    Trials of folds are trained to their end: an epoch of one fold says little about the others.
    """
    base = setup.plan.base
    max_epochs = base.temporal.choose_epochs(base.training.max_epochs)
    if setup.folds or search.scheduler == "none" or search.grace_period >= max_epochs:
        return FIFOScheduler()
    if search.scheduler == "wilcoxon":
        return PairedStopping(setup, list_rungs(search.grace_period, max_epochs))
    scheduler = ResumedAsha(setup, search.grace_period, max_epochs)
    for trial in setup.search.trials():
        scheduler.replay(trial)
    return scheduler


def check_num_cases(
    search: SearchConfig, segments: Sequence[Segment], on_notice: Callable[[str], None]
) -> None:
    """Tell a person if the validation cases are too few for the scheduler to stop any trial."""
    num_cases = len({segment.case_id for segment in segments if segment.split == "val"})
    if search.scheduler == "wilcoxon" and num_cases < MIN_CASES:
        on_notice(
            f"--scheduler wilcoxon stops no trial: it takes {MIN_CASES} validation cases to tell "
            f"that one is worse, and there are {num_cases}; --scheduler asha stops trials"
        )


def list_rungs(grace_period: int, max_epochs: int) -> list[int]:
    """Return the numbers of epochs after which trials are compared: those of ASHA."""
    rungs = [grace_period]
    while rungs[-1] * REDUCTION_FACTOR < max_epochs:
        rungs.append(rungs[-1] * REDUCTION_FACTOR)
    return rungs


class ResumedAsha(ASHAScheduler):
    """Asynchronous successive halving (arXiv:1810.05934) that outlives its process.

    It takes the results of trials from their folders, and records there which trials it stops.
    """

    def __init__(self, setup: TrialSetup, grace_period: int, max_epochs: int) -> None:
        super().__init__(
            time_attr=EPOCHS,
            metric=SCORE,
            mode="max",
            max_t=max_epochs,
            grace_period=grace_period,
            reduction_factor=REDUCTION_FACTOR,
        )
        self._setup, self._max_epochs = setup, max_epochs
        self._rungs = list_rungs(grace_period, max_epochs)
        # earlier versions did not record what they let pass; later epochs tell
        self._trained = {trial.name: len(trial.history) for trial in setup.search.trials()}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept the metric and the mode of Tune: they are set already."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Decide whether a trial continues; that of the settings as given always does.

        The gain of the search is measured against it. A resumed trial reports its epochs again; it
        takes its place at the rungs that an earlier call let it pass, and is not decided about.
        """
        num_epochs = result[EPOCHS]
        if num_epochs >= self._max_epochs:
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        run = self._setup.search.trial_run(trial.config["number"], trial.config["seed"])
        is_decided = num_epochs < self._trained.get(run.path.name, 0) or has_passed(run, num_epochs)
        if is_decided or self._setup.is_base(trial.config["settings"]):
            return TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            write_trial_end(run, "stopped", num_epochs, "behind other trials at this epoch")
        elif num_epochs in self._rungs:
            write_trial_pass(run, num_epochs)
        return decision

    def replay(self, trial: Trial) -> None:
        """Add the results of a trial that ended before to the rungs."""
        if trial.state not in ("finished", "stopped"):
            return
        past: Any = _PastTrial(trial.name)
        no_controller: Any = None
        progress = TrialProgress(self._setup.metric)
        self.on_trial_add(no_controller, past)
        for record in trial.history[: self._max_epochs - 1]:
            super().on_trial_result(no_controller, past, progress.add_epoch(record))
        self.on_trial_remove(no_controller, past)


@dataclass(frozen=True, slots=True)
class _PastTrial:
    """Stand-in for Ray's trial, with the one attribute that ASHA reads."""

    trial_id: str
