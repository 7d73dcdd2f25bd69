"""Stages of a search whose input is right: decode, train the trials, repeat, conclude."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.cache.store import sampling_of
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_file import ManifestFile
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.errors import TrainingError, one_line
from ophnet_ray.models.checkpoint_file import copy_checkpoint
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.settings_file import read_config
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.conclusion import failures_in_one_line
from ophnet_ray.train.disk_space import check_copy_limit, check_disk_space
from ophnet_ray.train.preflight import (
    check_backbone,
    check_cluster,
    check_num_segments,
    check_recipe,
    check_speed,
)
from ophnet_ray.train.prepare import prepare_data, prepare_variant
from ophnet_ray.train.run import Run
from ophnet_ray.train.stored_manifest import share_manifest, store_manifest
from ophnet_ray.tune.best import write_best
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.gain import SearchGain, measure_gain
from ophnet_ray.tune.progress import SearchTable
from ophnet_ray.tune.ranking import (
    RankedTrial,
    choose_finalists,
    choose_winner,
    compare_with,
    format_table,
    rank_trials,
)
from ophnet_ray.tune.report import write_search_page
from ophnet_ray.tune.reshuffle import build_reshuffle
from ophnet_ray.tune.resources import plan_trials
from ophnet_ray.tune.scheduler import build_scheduler, check_num_cases
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.searcher import Suggestions
from ophnet_ray.tune.space import (
    decoding_variants,
    largest_batch,
    may_take,
    network_variants,
    recipe_variants,
    select_base,
)
from ophnet_ray.tune.trial import Trial, outcome_of, write_trial_end
from ophnet_ray.tune.trial_task import TrialSetup, TrialTask
from ophnet_ray.tune.tuner import TrialQueue, build_tuner

MAX_REASON_CHARS = 200
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


@dataclass(frozen=True)
class SearchResult:
    """The ranking and its metric, the winner and its gain, the folder and the output file."""

    ranked: list[RankedTrial]
    metric: RankedMetric
    winner: RankedTrial
    gain: SearchGain
    directory: SearchDirectory
    output: str


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
                check_disk_space(run, output, search.num_trials)
            metadata, num_local = run.job_metadata(), search.num_local_trials
            with (
                run.open_cache().in_use(run.console.warn),
                connect(search.config, metadata, num_local) as where,
                ExitStack() as held,
            ):
                run.console.say(where)
                setup = _prepare(search, held)
                budget = TimeBudget(search.config.search.time_budget_s)
                _train_trials(search, setup, budget)
                _repeat_finalists(search, setup, budget)
        return _conclude(search, output)


def _prepare(search: Search, held: ExitStack) -> TrialSetup:
    """Decode or encode, once for all trials, whatever any of them may read.

    Args:
        search: The search.
        held: Keeps the features from being pruned while the trials read them.
    """
    run = search.run
    threads = run.directory.read_resources().get("threads_per_worker")
    plan = plan_trials(search.config, search.num_trials, threads, run.console.say)
    check_num_cases(search.config.search, run.data.segments, run.console.say)
    run = replace(run, config=plan.base)
    if run.config.temporal.is_used:
        # loads timm, which searches over frame models leave to their workers
        from ophnet_ray.train.head_stages import prepare_head

        manifest = Manifest(tuple(run.data.phases), run.config.windows, ())
        head = prepare_head(run, plan.resources, held)
        only = {run.config.windows: manifest}
        return TrialSetup(search.directory, plan, only, run.data.data_hash, search.metric, head)
    check_num_segments(plan.resources.train_workers, run.data.num_train)
    check_speed(run.config, plan.resources.train_workers, plan.resources.use_gpu)
    for settings in network_variants(search.space):
        check_backbone(run.config.replace_flat(**settings), run.console.say)
    for settings in recipe_variants(search.space):
        check_recipe(run.config.replace_flat(**settings))
    check_cluster(run.config, run.data.segments)
    first = prepare_data(run, run.open_cache(), plan.resources)
    check_copy_limit(run.config.replace_flat(**largest_batch(search.space)), first)
    decoded = {sampling_of(run.config.windows): first}
    manifests: dict[WindowConfig, Manifest] = {run.config.windows: first}
    for settings in decoding_variants(search.space):
        variant = replace(run, config=run.config.replace_flat(**settings))
        windows = variant.config.windows
        sampling = sampling_of(windows)
        if sampling not in decoded:
            decoded[sampling] = prepare_variant(
                variant, variant.open_cache(), plan.resources, first.phases
            )
        manifests[windows] = replace(decoded[sampling], windows=windows)
    setup = TrialSetup(search.directory, plan, manifests, run.data.data_hash, search.metric)
    if search.config.search.reshuffle:
        return replace(setup, reshuffle=build_reshuffle(run, first))
    return replace(setup, manifests=_store(manifests, search, run))


def _store(
    manifests: Mapping[WindowConfig, Manifest], search: Search, run: Run
) -> dict[WindowConfig, Manifest | ManifestFile]:
    """Write the manifests: each trial maps its file, wherever it runs.

    Machines without the folder fetch it once for all.
    """
    file = run.directory.manifest
    keeps_groups = may_take(search.space, run.config, "shuffle", "shard")
    return {
        windows: share_manifest(
            store_manifest(
                manifest, file.with_stem(f"{file.stem}-{number}"), keeps_groups=keeps_groups
            ),
            run.directory,
        )
        for number, (windows, manifest) in enumerate(manifests.items())
    }


def _train_trials(search: Search, setup: TrialSetup, budget: TimeBudget) -> None:
    """Train the trials that have not ended, and those that failed."""
    console = search.run.console
    past = search.directory.trials()
    again = [trial for trial in past if trial.state in ("unfinished", "failed")]
    num_left = max(search.num_trials - len(past), 0) + len(again)
    if not num_left:
        return
    if past:
        console.say(f"resuming: {len(past) - len(again)} of {search.num_trials} trials have ended")
    concurrent = min(setup.plan.max_concurrent, num_left)
    console.say(
        f"searching {', '.join(search.config.search.search)}: {num_left} trials, "
        f"{concurrent} at a time"
    )
    suggestions = _build_suggestions(search)
    for trial in past:
        outcome = None if trial in again else outcome_of(trial, setup.metric)
        suggestions.record(trial.number, trial.settings, outcome)
    tasks = [TrialTask(trial.number, trial.settings) for trial in again]
    queue = TrialQueue(setup, tasks, len(past), search.num_trials, suggestions)
    tuner = build_tuner(
        setup,
        queue,
        build_scheduler(search.config.search, setup),
        num_left,
        budget.left_s,
    )
    max_epochs, read = _count_epochs(search), search.directory.trials
    table = SearchTable(console, setup.metric, max_epochs, search.num_trials, read)
    _record_failures(search.directory, table.run(tuner.fit))


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
    tuner = build_tuner(setup, queue, FIFOScheduler(), len(tasks), budget.left_s)
    table = SearchTable(console, setup.metric, _count_epochs(search), len(tasks), directory.repeats)
    _record_failures(directory, table.run(tuner.fit))


def _record_failures(directory: SearchDirectory, results: Any) -> None:
    """Record why trials ended that could not do so themselves, e.g. because their node was lost."""
    trials = {trial.name: trial for trial in (*directory.trials(), *directory.repeats())}
    for result in results:
        if result.error is None or not result.config:
            continue
        run = directory.trial_run(result.config["number"], result.config["seed"])
        if not trials[run.path.name].has_ended:
            reason = one_line(result.error)[-MAX_REASON_CHARS:]
            write_trial_end(run, "failed", len(run.read_metrics()), reason)


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


def _conclude(search: Search, output: str) -> SearchResult:
    """Rank the trials; write the table, the page, and the winner's settings and checkpoint.

    Raises:
        TrainingError: No trial is finished.
    """
    directory, metric = search.directory, search.metric
    trials, repeats = directory.trials(), directory.repeats()
    ranked = rank_trials(trials, metric)
    winner = choose_winner(ranked, repeats, metric)
    # the gain replays the choice of finalists: by their differences from the first trial
    by_first = ranked
    if winner is not None:
        ranked = compare_with(ranked, winner, metric)
    write_atomically(directory.table, format_table(ranked, metric, list(search.space)))
    if winner is None:
        raise TrainingError(_describe_no_winner(trials, directory))
    best = read_trial_config(winner.trial)
    base = select_base(search.space, search.config.base())
    is_reshuffled = search.config.search.reshuffle
    gain = measure_gain(by_first, repeats, winner, base, metric, is_reshuffled=is_reshuffled)
    write_best(search, best, ranked, winner, gain)
    checkpoint = best_checkpoint(find_checkpoints(winner.trial.run.checkpoints)).file
    if best.temporal.is_used:
        from ophnet_ray.train.head_stages import join_checkpoints

        checkpoint = join_checkpoints(search.run, checkpoint)
    for target in (str(directory.best_checkpoint), output):
        copy_checkpoint(checkpoint, target, search.run.console.warn)
    write_search_page(search, ranked, repeats, winner, gain)
    return SearchResult(ranked, metric, winner, gain, directory, output)


def read_trial_config(trial: Trial) -> Config:
    """Read the settings of a trial for ``train.py --config``, without the trial's name."""
    config = read_config(str(trial.run.config), Config())
    return replace(config, run=replace(config.run, name=None))


def _describe_no_winner(trials: Sequence[Trial], directory: SearchDirectory) -> str:
    failed = [trial for trial in trials if trial.state in ("diverged", "failed")]
    if failed:
        return f"no trial was finished; the first one that failed: {failed[0].reason}"
    return (
        f"none of the {len(trials)} trials that were started was finished; the same command with a "
        f"larger --time_budget_s resumes the search (see {directory.table})"
    )
