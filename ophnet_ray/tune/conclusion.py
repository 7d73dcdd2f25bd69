"""Conclusion of a search: the ranking, the winner and its files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ophnet_ray.config import Config
from ophnet_ray.errors import TrainingError
from ophnet_ray.models.checkpoint_file import copy_checkpoint
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.settings_file import read_config
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.tune.best import write_best
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.gain import SearchGain, measure_gain
from ophnet_ray.tune.ranking import (
    RankedTrial,
    choose_winner,
    compare_with,
    format_table,
    rank_trials,
)
from ophnet_ray.tune.report import write_search_page
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.space import (
    select_base,
)
from ophnet_ray.tune.trial import Trial


@dataclass(frozen=True)
class SearchResult:
    """The ranking and its metric, the winner and its gain, the folder and the output file."""

    ranked: list[RankedTrial]
    metric: RankedMetric
    winner: RankedTrial
    gain: SearchGain
    directory: SearchDirectory
    output: str


def conclude_search(search: Search, output: str) -> SearchResult:
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
