"""Conclusion of a search: the ranking, the winner and its files."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ophnet_ray.config import Config
from ophnet_ray.errors import TrainingError
from ophnet_ray.inference.ensemble import ENSEMBLE_FILE
from ophnet_ray.models.checkpoint_file import copy_checkpoint
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.settings_file import read_config
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.paths import join
from ophnet_ray.train.driver import TrainingResult
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.run import Run
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
from ophnet_ray.tune.report import describe_folds, write_search_page
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.space import select_base
from ophnet_ray.tune.trial import Trial


@dataclass(frozen=True)
class SearchResult:
    """The ranking and its metric, the winner and its gain, the folder and the output file.

    ``output``: the checkpoint of the winner, of folds the ensemble of theirs. ``num_folds``: folds
    on which each trial is scored, None for a holdout.
    """

    ranked: list[RankedTrial]
    metric: RankedMetric
    winner: RankedTrial
    gain: SearchGain
    directory: SearchDirectory
    output: str
    num_folds: int | None = None

    @property
    def answer(self) -> dict[str, object]:
        """Lines for stdout by name."""
        settings = self.directory.best_config
        found = {"settings": settings, "report": self.directory.report}
        winner = f"{self.winner.trial.name}: {self.gain}"
        if self.num_folds is None:
            return {"winner": winner, "checkpoint": self.output, **found}
        return {
            "winner": winner,
            "validation": describe_folds(self.num_folds, self.winner),
            "ensemble": self.output,
            **found,
            "predict": f"python -m ophnet_ray predict --checkpoint {shlex.quote(self.output)} "
            "--videos FOLDER",
            "train": f"python -m ophnet_ray train --config {shlex.quote(str(settings))}",
        }


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
    write_search_page(search, ranked, repeats, winner, gain)
    if search.folds is not None:
        output = _provide_folds(search, search.folds, winner.trial)
    else:
        checkpoint = best_checkpoint(find_checkpoints(winner.trial.run.checkpoints)).file
        if best.temporal.is_used:
            checkpoint = _join_checkpoints(search.run, checkpoint)
        for target in (str(directory.best_checkpoint), output):
            copy_checkpoint(checkpoint, target, search.run.console.warn)
    return SearchResult(
        ranked, metric, winner, gain, directory, output, search.config.data.num_folds
    )


def _provide_folds(search: Search, folds: FoldSet, trial: Trial) -> str:
    """Write checkpoints, report and ensemble of the folds of the winner; return the ensemble."""
    results = []
    for fold, run in zip(folds.numbers, trial.fold_runs, strict=True):
        name = run.name
        best = best_checkpoint(find_checkpoints(run.checkpoints))
        checkpoint, target = best.file, search.directory.fold_checkpoint(name)
        if folds.config.temporal.is_used:
            config, data = folds.config_of(fold), search.directory.fold_data(name)
            checkpoint = _join_checkpoints(
                replace(search.run, config=config, directory=data), checkpoint
            )
        copy_checkpoint(checkpoint, str(target), search.run.console.warn)
        result = TrainingResult(
            target, run.path, run.location, best.epoch + 1, trial.num_epochs, best.metrics
        )
        results.append(result)
    # loads the drawing library
    from ophnet_ray.train.fold_results import conclude_folds

    return join(conclude_folds(folds, results, may_lack_cases=True).location, ENSEMBLE_FILE)


def _join_checkpoints(run: Run, trained: Path) -> Path:
    from ophnet_ray.train.head_stages import join_checkpoints

    return join_checkpoints(run, trained)


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
