"""Cross-validation from the settings to the answer: a run per fold, then their report.

A fold is a normal run, which ``--fold`` trains alone. Importing this module loads neither torch nor
Ray: wrong input is refused within a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ophnet_ray.config import Config, RunConfig
from ophnet_ray.console import Console
from ophnet_ray.data.run_data import RunData
from ophnet_ray.distributed.private import private_files
from ophnet_ray.errors import StoppedError, TrainingError, UserError
from ophnet_ray.signals import Terminated
from ophnet_ray.storage.paths import join, stem_of
from ophnet_ray.train.driver import TrainingResult, train
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run_directory import locate_run

if TYPE_CHECKING:
    from ophnet_ray.train.fold_results import FoldsResult


def trains_folds(config: Config) -> bool:
    """Return True for the settings of all folds, not of one of them."""
    return config.data.folds is not None and config.data.fold is None


def train_folds(config: Config, console: Console) -> "FoldsResult":
    """Train the folds that are not complete, then pool their counts and write the report.

    Raises:
        UserError: The input is wrong.
        TrainingError: The training of a fold failed.
        StoppedError: A signal asked to stop; it names the fold.
    """
    with private_files(config.run.private):
        folds = open_folds(config, console)
        with folds.directory.locked(console.warn):
            results = [_train_fold(folds, fold) for fold in folds.numbers]
            # torch takes seconds to load
            from ophnet_ray.train.fold_results import conclude_folds

            return conclude_folds(folds, results)


def open_folds(config: Config, console: Console) -> FoldSet:
    """Check the input and create the folder of the cross-validation, or open it again.

    Raises:
        UserError: The input is wrong, there are fewer cases than folds, or the folder cannot be
            written.
    """
    num_folds = config.data.folds or 0
    if config.run.output_pth != RunConfig.output_pth:
        raise UserError(
            f"--output_pth {config.run.output_pth}: each of the --folds has a checkpoint, in "
            "the folder of the folds; leave the flag out, or give one --fold, too"
        )
    output = join(config.run.storage_path, "model.ckpt")  # never written; see ``_train_fold``
    first = replace(
        config,
        data=replace(config.data, fold=1),
        run=replace(config.run, output_pth=output),
    )
    checked = check_input(first, console)
    resolved = replace(checked.config, data=replace(checked.config.data, fold=None))
    pooled = [
        row if row.split == "test" else replace(row, split="train") for row in checked.data.segments
    ]
    data = locate_data(
        replace(
            RunData.of_rows(pooled, checked.data.missing), same_videos=checked.data.same_videos
        ),
        resolved,
    )
    stem = stem_of(resolved.data.csv_path or "")
    name = resolved.run.name or f"{stem}-{resolved.identity_hash(data.data_hash)}"
    directory = locate_run(
        resolved.run.storage_path, f"{name}-{num_folds}folds", resolved.run.local_cache_dir
    )
    directory.create()
    return FoldSet(resolved, directory, data, console)


def _train_fold(folds: FoldSet, fold: int) -> TrainingResult:
    config = folds.config_of(fold)
    output = join(folds.directory.location, f"{config.data.fold_name}.ckpt")
    folds.console.say(f"fold {fold} of {len(folds.numbers)}")
    with _named(f"fold {fold} of {len(folds.numbers)}", folds.console):
        return train(replace(config, run=replace(config.run, output_pth=output)), folds.console)


@contextmanager
def _named(fold: str, console: Console) -> Iterator[None]:
    """Name the fold in every error that ends it.

    Raises:
        UserError: As it was raised inside, likewise the others.
        TrainingError: Likewise.
        StoppedError: Likewise.
    """
    try:
        yield
    except StoppedError as error:
        raise StoppedError(f"in {fold}, {error}", error.exit_code) from error
    except UserError as error:
        raise UserError(f"{fold}: {error}") from error
    except TrainingError as error:
        raise TrainingError(f"{fold}: {error}") from error
    except (KeyboardInterrupt, Terminated):
        console.say(f"in {fold}")
        raise
