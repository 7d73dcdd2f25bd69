"""A training run from the settings to the answer.

Importing this module loads neither torch nor Ray: wrong input is refused within a second.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ophnet_ray.config import Config
from ophnet_ray.console import Console, log_to
from ophnet_ray.distributed.private import private_files
from ophnet_ray.quick_import import quick_import
from ophnet_ray.storage.paths import is_remote, join
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import open_run
from ophnet_ray.train.same_run import check_same

FOLD_PATIENCE_S = 20.0
"""Seconds in which a process of a fold ends that has lost its parent."""


@dataclass(frozen=True)
class TrainingResult:
    """Answer of a run.

    Attributes:
        checkpoint: Copy of the best checkpoint, path or URI.
        run: Folder of the run; of a run in a bucket, this machine's copy.
        location: Folder of the run, path or URI.
        best_epoch: Counted from 1.
        num_epochs: Epochs of the model that is scored: the temporal model, if there is one.
        scores: Validation scores of the best epoch.
    """

    checkpoint: Path | str
    run: Path
    location: str
    best_epoch: int
    num_epochs: int
    scores: dict[str, float]

    @property
    def report(self) -> str:
        """Path or URI of the report."""
        return join(self.location, "report.html")


def train(config: Config, console: Console, *, num_sharing: int = 1) -> TrainingResult:
    """Train, or resume a stopped run, or repeat the answer of a complete one.

    Args:
        config: Settings of the run.
        console: Progress and notices for the user.
        num_sharing: Runs that share the cluster side by side, this one included.

    Raises:
        UserError: The input is wrong.
        TrainingError: Training failed.
    """
    with private_files(config.run.private):
        return _train(config, console, num_sharing)


def _train(config: Config, console: Console, num_sharing: int) -> TrainingResult:
    checked = check_input(config, console)
    run = open_run(checked.config, locate_data(checked.data, checked.config), console)
    run = replace(run, num_sharing=num_sharing)
    directory, temporal = run.directory, run.config.temporal
    # after a kill of the command for all folds, each still writes a checkpoint
    patience_s = FOLD_PATIENCE_S if run.config.data.fold is not None else 0.0
    with directory.locked(console.warn, patience_s):
        check_same(directory, run.config, run.data.data_hash)
        if not directory.config.exists():
            check_new_run(run.config, run.data, console.say)
        log_to(directory.driver_log)
        # torch and Ray take seconds to load: only once the input is right
        with quick_import():
            if temporal.is_used:
                from ophnet_ray.train.head_stages import complete_head_run as complete_run
            else:
                from ophnet_ray.train.stages import complete_run

        result = complete_run(run, checked.output)
    return TrainingResult(
        checked.output if is_remote(checked.output) else Path(checked.output),
        directory.path,
        directory.location,
        result.best_epoch,
        temporal.choose_epochs(run.config.training.max_epochs),
        result.scores,
    )
