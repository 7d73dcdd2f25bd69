"""The context of a search: everything that its stages share."""

from dataclasses import dataclass, replace
from pathlib import Path

from ophnet_ray.config import EpochMetric
from ophnet_ray.console import Console
from ophnet_ray.data.run_data import RunData
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import is_remote, stem_of
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.run import Run
from ophnet_ray.tune.config import RankedMetric, TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.plan import SearchPlan
from ophnet_ray.tune.space import SearchSpace, cuts_windows

_BY_SEGMENT: dict[EpochMetric, RankedMetric] = {
    "val_macro_f1": "val_segment_macro_f1",
    "val_acc": "val_segment_acc",
}


@dataclass(frozen=True)
class Search:
    """A search, with the context that it shares with a training run.

    Attributes:
        config: Settings with absolute paths.
        space: Searched settings.
        num_trials: Number of trials.
        num_local_trials: Trials that run simultaneously on a Ray of the search's own.
        directory: Folder of the search.
        run: Settings, folder, data and console as the stages of a training run take them.
    """

    config: TuneConfig
    space: SearchSpace
    num_trials: int
    num_local_trials: int
    directory: SearchDirectory
    run: Run

    @property
    def folds(self) -> FoldSet | None:
        """The folds on which each trial is scored; None for a holdout."""
        if self.config.data.num_folds is None:
            return None
        return FoldSet(self.run.config, self.run.directory, self.run.data, self.run.console)

    @property
    def held_out_somewhere(self) -> RunData:
        """The rows; those that any trial may hold out have the split ``val``."""
        data = self.run.data
        if not self.config.search.reshuffle:
            return data
        rows = data.segments
        splits = rows.splits.replace_some(~rows.splits.equal("test"), "val")
        return replace(data, segments=rows.with_splits(splits))

    @property
    def metric(self) -> RankedMetric:
        """Score by which trials are compared.

        It is that of segments where trials cut other windows: their numbers of windows differ by
        segment, so that scores of windows would be of other mixtures of phases. (Scores of frames
        count the same time whatever the windows.) A search that began before there were such scores
        stays with those of windows.
        """
        metric = self.config.search.metric
        if metric not in _BY_SEGMENT or not cuts_windows(self.space):
            return metric
        by_segment = _BY_SEGMENT[metric]
        histories = (trial.history for trial in self.directory.trials())
        is_recorded = all(by_segment in record for history in histories for record in history)
        return by_segment if is_recorded else metric


def open_search(plan: SearchPlan, config: TuneConfig, data: RunData, console: Console) -> Search:
    """Create the folder of a search, or open it to resume the search.

    Args:
        plan: The planned search.
        config: Its settings with absolute paths.
        data: Its rows.
        console: Progress and notices for the user.

    Raises:
        UserError: The folder cannot be written, or holds another search or a training run.
    """
    if is_remote(config.run.storage_path):
        raise UserError(
            "--storage_path: a search needs a folder that all its machines mount; only videos, "
            "--cache_dir and --output_pth may lie in a bucket"
        )
    stem = stem_of(config.data.csv_path or "")
    name = config.run.name or f"tune-{stem}-{config.base().identity_hash(data.data_hash)}"
    directory = SearchDirectory(Path(config.run.storage_path) / name)
    if directory.run.metrics.exists():
        raise UserError(f"{directory.path} is a training run; choose another --name for the search")
    directory.run.create()
    directory.check_same(config, plan.space, data.data_hash)
    run = Run(config.base(), directory.run, data, console)
    return Search(config, plan.space, plan.num_trials, plan.num_local_trials, directory, run)
