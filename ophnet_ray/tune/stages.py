"""Stages of a search whose input is right: train the trials, repeat, conclude."""

import time
from contextlib import ExitStack

from ray.tune.schedulers import FIFOScheduler

from ophnet_ray.distributed.cluster import connect
from ophnet_ray.train.conclusion import failures_in_one_line
from ophnet_ray.train.disk_space import check_disk_space
from ophnet_ray.tune.conclusion import SearchResult, conclude_search
from ophnet_ray.tune.preparation import prepare_search
from ophnet_ray.tune.progress import SearchTable
from ophnet_ray.tune.ranking import choose_finalists, rank_trials
from ophnet_ray.tune.restarts import count_memory_kills_as_losses
from ophnet_ray.tune.scheduler import build_scheduler
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.searcher import Suggestions
from ophnet_ray.tune.space import select_base
from ophnet_ray.tune.trial import outcome_of
from ophnet_ray.tune.trial_queue import TrialQueue
from ophnet_ray.tune.trial_task import TrialSetup, TrialTask
from ophnet_ray.tune.tuner import build_tuner
from ophnet_ray.wording import say_count

MIN_BUDGET_S = 1e-3
ENDED_FOR_GOOD = ("finished", "diverged")
"""States of a repeat that is not trained again."""


class TimeBudget:
    """Time for the training of a search; it runs from the construction.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._ends_s = None if seconds is None else time.monotonic() + seconds

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, more than 0; None for no limit."""
        return None if self._ends_s is None else max(self._ends_s - time.monotonic(), MIN_BUDGET_S)

    @property
    def is_spent(self) -> bool:
        """True once the time is over."""
        return self._ends_s is not None and time.monotonic() >= self._ends_s


def complete_search(search: Search, output: str) -> SearchResult:
    """Train what is left to train, and write the answer.

    Raises:
        UserError: The data, or the cluster, does not fit the settings.
        TrainingError: No trial was finished.
    """
    run = search.run
    with failures_in_one_line(run.directory, "search"):
        if _is_complete(search):
            run.console.say(f"already complete: {search.directory.path}")
        else:
            if not run.config.temporal.is_used:  # else the checkpoints of trials are small
                num_runs = search.num_trials * (search.config.data.num_folds or 1)
                check_disk_space(run, output or str(run.directory.path), num_runs)
            metadata, num_local = run.job_metadata(), search.num_local_trials
            with (
                run.open_cache().in_use(run.console.warn),
                connect(search.config, metadata, num_local) as where,
                ExitStack() as held,
            ):
                run.console.say(where)
                setup = prepare_search(search, held)
                count_memory_kills_as_losses()
                budget = TimeBudget(search.config.search.time_budget_s)
                _train_trials(search, setup, budget)
                _repeat_finalists(search, setup, budget)
        return conclude_search(search, output)


def _train_trials(search: Search, setup: TrialSetup, budget: TimeBudget) -> None:
    """Train the trials that have not ended, and those that failed."""
    console = search.run.console
    past = search.directory.trials()
    again = [trial for trial in past if trial.state in ("unfinished", "failed")]
    num_left = max(search.num_trials - len(past), 0) + len(again)
    if not num_left:
        return
    if past:
        console.say(
            f"resuming: {say_count(len(past) - len(again), 'trial has', 'trials have')} ended, of "
            f"{search.num_trials}"
        )
    concurrent = min(setup.plan.max_concurrent, num_left)
    console.say(
        f"searching {', '.join(search.config.search.search)}: {say_count(num_left, 'trial')}, "
        f"{concurrent} at a time"
    )
    suggestions = _build_suggestions(search)
    for trial in past:
        outcome = None if trial in again else outcome_of(trial, setup.metric)
        suggestions.record(trial.number, trial.settings, outcome)
    tasks = [TrialTask(trial.number, trial.settings) for trial in again]
    queue = TrialQueue(setup, tasks, len(past), search.num_trials, suggestions)
    scheduler = build_scheduler(search.config.search, setup)
    tuner = build_tuner(setup, queue, scheduler, budget.left_s, console.warn)
    max_epochs, read = _count_epochs(search), search.directory.trials
    table = SearchTable(console, setup.metric, max_epochs, search.num_trials, read)
    table.run(tuner.fit)


def _count_epochs(search: Search) -> int:
    """Return the epochs of a whole trial."""
    return search.config.temporal.choose_epochs(search.config.training.max_epochs)


def _build_suggestions(search: Search) -> Suggestions:
    config = search.config
    return Suggestions(
        search.space,
        config.search.searcher,
        config.search.num_samples,
        config.training.seed,
        select_base(search.space, config.base()),
    )


def _repeat_finalists(search: Search, setup: TrialSetup, budget: TimeBudget) -> None:
    """Train the finalists again, each under the same other seeds, in what is left of the budget."""
    if not search.config.search.repeats:
        return
    console = search.run.console
    directory, training = search.directory, search.config.training
    finalists = choose_finalists(rank_trials(directory.trials(), setup.metric))
    ended = {trial.name for trial in directory.repeats() if trial.state in ENDED_FOR_GOOD}
    seeds = range(training.seed + 1, training.seed + 1 + search.config.search.repeats)
    tasks = [
        TrialTask(row.trial.number, row.trial.settings, seed)
        for seed in seeds
        for row in finalists
        if directory.trial_run(row.trial.number, seed).path.name not in ended
    ]
    if not tasks:
        return
    has_open_trials = not all(trial.has_ended for trial in directory.trials())
    if budget.is_spent or has_open_trials:
        console.say("--time_budget_s is spent: the same command resumes the search and its repeats")
        return
    console.say(f"training {len(finalists)} finalists again under {len(seeds)} other seeds")
    queue = TrialQueue(setup, tasks)
    tuner = build_tuner(setup, queue, FIFOScheduler(), budget.left_s, console.warn)
    table = SearchTable(console, setup.metric, _count_epochs(search), len(tasks), directory.repeats)
    table.run(tuner.fit)


def _is_complete(search: Search) -> bool:
    """Return True if there is nothing left to train."""
    trials = search.directory.trials()
    if len(trials) < search.num_trials:
        return False
    if any(trial.state in ("unfinished", "failed") for trial in trials):
        return False
    num_repeats = search.config.search.repeats
    if not num_repeats:
        return True
    finalists = choose_finalists(rank_trials(trials, search.metric))
    first_seed = search.config.training.seed + 1
    repeats = {trial.name for trial in search.directory.repeats() if trial.state in ENDED_FOR_GOOD}
    return all(
        search.directory.trial_run(row.trial.number, seed).path.name in repeats
        for seed in range(first_seed, first_seed + num_repeats)
        for row in finalists
    )
