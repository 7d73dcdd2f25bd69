"""A search from the settings to the choice: each stage once, in order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from ophnet_ray.config import Config, WindowConfig, dump_config, read_config
from ophnet_ray.console import Console, log_to
from ophnet_ray.data.cache.store import BlockCache, sampling_of
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.run_data import RunData
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.errors import TrainingError, UserError, one_line
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.storage.files import copy_file, write_atomically
from ophnet_ray.storage.paths import is_remote, stem_of
from ophnet_ray.train.preflight import (
    check_backbone,
    check_cluster,
    check_loggers,
    check_output,
    job_metadata,
    resolve_paths,
)
from ophnet_ray.train.prepare import prepare_data, prepare_variant, read_run_data
from ophnet_ray.train.trainer import failures_in_one_line
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory, Trial, end_trial, outcome_of
from ophnet_ray.tune.progress import SearchTable
from ophnet_ray.tune.ranking import (
    RankedTrial,
    choose_finalists,
    choose_winner,
    format_table,
    rank_trials,
)
from ophnet_ray.tune.report import describe_gain, write_search_page
from ophnet_ray.tune.resources import one_trial, plan_trials, trials_on_this_machine
from ophnet_ray.tune.searcher import Suggestions
from ophnet_ray.tune.space import SearchSpace, decoding_variants, parse_search_space
from ophnet_ray.tune.tuner import (
    TrialQueue,
    TrialSetup,
    TrialTask,
    build_scheduler,
    build_tuner,
)


@dataclass(frozen=True)
class SearchResult:
    """The ranking and the winner, what it gained over trial 0, and where the answer lies."""

    ranked: list[RankedTrial]
    winner: RankedTrial
    gain: str
    directory: SearchDirectory
    output: str


def tune(config: TuneConfig, console: Console) -> SearchResult:
    """Search, or go on with a search that was stopped, or repeat the answer of a complete one.

    Raises:
        UserError: The input is wrong.
        TrainingError: No trial could be trained to its end.
    """
    config.validate()
    check_loggers(config)
    config = one_trial(config)
    output = check_output(config.run.output_pth)
    space = parse_search_space(config.search.search, config.base())
    suggestions = _build_suggestions(config, space)
    num_trials = suggestions.num_trials(config.search.num_samples)
    concurrent = trials_on_this_machine(config, num_trials)
    config = resolve_paths(config, console)
    data = read_run_data(config.base(), console)
    search = _open_search(config, space, data.data_hash)
    with search.run.locked():
        log_to(search.run.logs / "driver.log")
        with failures_in_one_line(search.run, "search"):
            if _is_complete(search, num_trials, config):
                console.say(f"complete already: {search.path}")
            else:
                cache = BlockCache(
                    config.run.cache_dir or "", config.windows, config.run.local_cache_dir
                )
                metadata = job_metadata(config.base(), search.run)
                with cache.in_use(), connect(config, metadata, concurrent) as where:
                    console.say(where)
                    setup = _prepare(config, space, cache, data, search, num_trials, console)
                    _search(config, setup, suggestions, num_trials, console)
                    _repeat(config, setup, console)
            return _conclude(config, space, search, output)


def _build_suggestions(config: TuneConfig, space: SearchSpace) -> Suggestions:
    s = config.search
    return Suggestions(
        space,
        s.searcher,
        s.num_samples,
        config.training.seed,
        config.base().to_flat(),
    )


def _open_search(config: TuneConfig, space: SearchSpace, data_hash: str) -> SearchDirectory:
    """The folder of this search, new or to be resumed.

    Raises:
        UserError: It cannot be written, or holds another search or a run.
    """
    if is_remote(config.run.storage_path):
        raise UserError(
            "--storage_path: a search is kept in a folder that its machines share; videos, "
            "--cache_dir and --output_pth may lie in a bucket"
        )
    stem = stem_of(config.data.csv_path or "")
    name = config.run.name or f"tune-{stem}-{config.base().identity_hash(data_hash)}"
    search = SearchDirectory(Path(config.run.storage_path) / name)
    if search.run.metrics.exists():
        raise UserError(f"{search.path} is a training run; choose another --name for the search")
    search.run.create()
    search.check_same(config, space, data_hash)
    return search


def _prepare(
    config: TuneConfig,
    space: SearchSpace,
    cache: BlockCache,
    data: RunData,
    search: SearchDirectory,
    num_trials: int,
    console: Console,
) -> TrialSetup:
    """Decode, once for all trials, what any of them may read."""
    threads = search.run.read_resources().get("threads_per_worker")
    plan = plan_trials(config, num_trials, threads, console)
    check_backbone(plan.base, console.say)
    check_cluster(plan.base, data.segments)
    first = prepare_data(plan.base, cache, data, search.run, plan.resources, console)
    decoded = {sampling_of(config.windows): first}
    manifests: dict[WindowConfig, Manifest] = {config.windows: first}
    for settings in decoding_variants(space):
        windows = plan.base.replace_flat(**settings).windows
        sampling = sampling_of(windows)
        if sampling not in decoded:
            cache = BlockCache(config.run.cache_dir or "", windows, config.run.local_cache_dir)
            decoded[sampling] = prepare_variant(
                cache, data.segments, first.phases, plan.resources, console
            )
        manifests[windows] = replace(decoded[sampling], windows=windows)
    return TrialSetup(search, plan, manifests, data.data_hash, config.search.metric)


def _search(
    config: TuneConfig,
    setup: TrialSetup,
    suggestions: Suggestions,
    num_trials: int,
    console: Console,
) -> None:
    """Run the trials that are not over yet."""
    past = setup.search.trials()
    again = [trial for trial in past if trial.state in ("unfinished", "failed")]
    for trial in past:
        outcome = None if trial in again else outcome_of(trial, setup.metric)
        suggestions.tell(trial.number, trial.settings, outcome)
    num_left = max(num_trials - len(past), 0) + len(again)
    if not num_left:
        return
    if past:
        console.say(f"going on: {len(past) - len(again)} of {num_trials} trials have ended")
    at_once = min(setup.plan.max_concurrent, num_left)
    console.say(
        f"searching {', '.join(config.search.search)}: {num_left} trials, {at_once} at a time"
    )
    queue = TrialQueue(
        setup,
        [TrialTask(trial.number, trial.settings) for trial in again],
        len(past),
        num_trials,
        suggestions,
    )
    tuner = build_tuner(
        setup,
        queue,
        build_scheduler(config.search, setup),
        num_left,
        config.search.time_budget_s,
    )
    max_epochs = config.training.max_epochs
    table = SearchTable(console, setup.metric, max_epochs, num_trials, setup.search.trials)
    _note_failures(setup.search, table.run(tuner.fit))


def _repeat(config: TuneConfig, setup: TrialSetup, console: Console) -> None:
    """Train the finalists again, each under the same other seeds."""
    finalists = choose_finalists(rank_trials(setup.search.trials(), setup.metric))
    over = {trial.name for trial in setup.search.repeats() if trial.state == "finished"}
    seeds = range(config.training.seed + 1, config.training.seed + 1 + config.search.repeats)
    tasks = [
        TrialTask(row.trial.number, row.trial.settings, seed)
        for seed in seeds
        for row in finalists
        if setup.search.trial_run(row.trial.number, seed).path.name not in over
    ]
    if not tasks:
        return
    console.say(f"training {len(finalists)} finalists again under {len(seeds)} other seeds")
    tuner = build_tuner(setup, TrialQueue(setup, tasks), FIFOScheduler(), len(tasks), None)
    max_epochs = config.training.max_epochs
    table = SearchTable(console, setup.metric, max_epochs, len(tasks), setup.search.repeats)
    _note_failures(setup.search, table.run(tuner.fit))


def _note_failures(search: SearchDirectory, results: Any) -> None:
    """Keep why a trial broke off that could not say so itself, e.g. because its node died."""
    states = {trial.name: trial for trial in (*search.trials(), *search.repeats())}
    for result in results:
        if result.error is None or not result.config:
            continue
        run = search.trial_run(result.config["number"], result.config["seed"])
        if states[run.path.name].state == "unfinished":
            end_trial(run, "failed", len(run.read_metrics()), one_line(result.error)[-200:])


def _is_complete(search: SearchDirectory, num_trials: int, config: TuneConfig) -> bool:
    """Whether there is nothing left to train."""
    trials = search.trials()
    ended = [trial for trial in trials if trial.state in ("finished", "stopped")]
    if len(trials) < num_trials or len(ended) < len(trials):
        return False
    if not config.search.repeats:
        return True
    finalists = choose_finalists(rank_trials(trials, config.search.metric))
    repeats = [trial for trial in search.repeats() if trial.state == "finished"]
    return len(repeats) >= config.search.repeats * len(finalists)


def _conclude(
    config: TuneConfig, space: SearchSpace, search: SearchDirectory, output: str
) -> SearchResult:
    """Rank the trials and hand out the winner.

    Raises:
        TrainingError: No trial is finished.
    """
    metric = config.search.metric
    trials, repeats = search.trials(), search.repeats()
    ranked = rank_trials(trials, metric)
    write_atomically(search.table, format_table(ranked, metric, list(space)))
    winner = choose_winner(ranked, repeats, metric)
    if winner is None:
        raise TrainingError(_describe_unfinished(trials, search))
    best = trial_settings(winner.trial)
    write_atomically(search.best_config, dump_config(best).encode())
    checkpoint = best_checkpoint(find_checkpoints(winner.trial.run.checkpoints)).file
    copy_file(checkpoint, search.best_checkpoint)
    copy_file(checkpoint, output)
    write_search_page(search, config, space, ranked, repeats, winner)
    return SearchResult(ranked, winner, describe_gain(ranked, winner), search, output)


def trial_settings(trial: Trial) -> Config:
    """The settings of a trial as ``train.py --config`` takes them, under a name of its own."""
    config = read_config(str(trial.run.config), Config())
    return replace(config, run=replace(config.run, name=None))


def _describe_unfinished(trials: Sequence[Trial], search: SearchDirectory) -> str:
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        return f"no trial was finished; the first that failed: {failed[0].reason}"
    return (
        f"no trial was finished of the {len(trials)} that were begun; the same command goes on, "
        f"with a larger --time_budget_s (see {search.table})"
    )
