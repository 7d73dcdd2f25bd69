"""Checks of all folds before the first of them trains, as each of their runs would make them."""

from collections.abc import Mapping

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import list_objects
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.run import Run, locate
from ophnet_ray.train.run_directory import RunDirectory


def locate_folds(folds: FoldSet) -> dict[int, Run]:
    """Return the runs of all folds by number; nothing is written.

    Raises:
        UserError: The given encoder is missing or damaged.
    """
    return {
        fold: locate(folds.config_of(fold), folds.data_of(fold), folds.console)
        for fold in folds.numbers
    }


def check_new_folds(runs: Mapping[int, Run]) -> None:
    """Check network, licence, first checkpoint and given encoder of the folds that are new.

    Raises:
        UserError: As the run of a fold would raise it, with the number of the fold.
    """
    for fold, run in runs.items():
        if _has_begun(run.directory):
            continue
        try:
            check_new_run(run.config, run.data, _leave_to_run)
        except UserError as error:
            raise UserError(f"fold {fold} of {len(runs)}: {error}") from error


def _has_begun(directory: RunDirectory) -> bool:
    if directory.config.exists():
        return True
    return directory.is_in_bucket and directory.config.name in list_objects(directory.location)


def _leave_to_run(_notice: str) -> None:
    """The run of the fold shows the same line."""
