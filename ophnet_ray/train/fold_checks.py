"""Checks of all folds before the first of them trains, as each of their runs would make them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ophnet_ray.config import AnyConfig, Config
from ophnet_ray.console import Console
from ophnet_ray.data.run_data import RunData
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import list_objects
from ophnet_ray.storage.paths import join
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import Run, locate
from ophnet_ray.train.run_directory import RunDirectory


def check_fold_input(config: AnyConfig, console: Console) -> tuple[AnyConfig, RunData]:
    """Check settings, paths and CSV for all folds.

    Returns:
        Settings with absolute paths and without a fold; and the rows, of which all but those of the
        test split have the split ``train``.

    Raises:
        UserError: The input is wrong, or there are fewer cases than folds.
    """
    output = join(config.run.storage_path, "model.ckpt")  # never written
    first = replace(
        config,
        data=replace(config.data, fold=1),
        run=replace(config.run, output_pth=output),
    )
    checked = check_input(first, console)
    resolved = replace(
        checked.config,
        data=replace(checked.config.data, fold=None),
        run=replace(checked.config.run, output_pth=config.run.output_pth),
    )
    rows = checked.data.segments
    splits = rows.splits.replace_some(~rows.splits.equal("test"), "train")
    pooled = rows.with_splits(splits)
    data = replace(
        RunData.of_rows(pooled, checked.data.missing, files=checked.data.files),
        case_rule=checked.data.case_rule,
        same_videos=checked.data.same_videos,
    )
    return resolved, locate_data(data, resolved)


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
        if not _has_begun(run.directory):
            _check_fold(f"fold {fold} of {len(runs)}", run.config, run.data, _leave_to_run)


def check_all_folds(folds: FoldSet, tell: Callable[[str], None]) -> None:
    """Check the same of all folds, whatever runs there are: those of a new search.

    Args:
        folds: The folds of a trial.
        tell: Receives lines about what is taken of the first checkpoint, once.

    Raises:
        UserError: As the run of a fold would raise it, with the number of the fold; or the given
            encoder is missing or damaged.
    """
    for fold in folds.numbers:
        tell_once = tell if fold == 1 else _leave_to_run
        config, data = folds.config_of(fold), folds.data_of(fold)
        _check_fold(f"fold {fold} of {len(folds.numbers)}", config, data, tell_once)


def _check_fold(name: str, config: Config, data: RunData, tell: Callable[[str], None]) -> None:
    try:
        check_new_run(config, data, tell)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _has_begun(directory: RunDirectory) -> bool:
    if directory.config.exists():
        return True
    return directory.is_in_bucket and directory.config.name in list_objects(directory.location)


def _leave_to_run(_notice: str) -> None:
    """Show nothing: the run of the fold shows the same line, or the first fold did."""
