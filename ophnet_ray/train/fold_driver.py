"""Cross-validation from the settings to the answer: a run per fold, then their report.

A fold is a normal run, which ``--fold`` trains alone. Importing this module loads neither torch nor
Ray: wrong input is refused within a second.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ophnet_ray.config import Config, RunConfig
from ophnet_ray.console import Console, kept_log, log_to
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.private import private_files
from ophnet_ray.errors import (
    BrokenProcessError,
    ReportedError,
    StoppedError,
    TrainingError,
    UserError,
)
from ophnet_ray.signals import Terminated
from ophnet_ray.storage.paths import stem_of
from ophnet_ray.train.driver import TrainingResult, train
from ophnet_ray.train.fold_checks import check_fold_input, check_new_folds, locate_folds
from ophnet_ray.train.fold_processes import (
    Outcome,
    describe_disk_error,
    is_wrong_for_all,
    train_side_by_side,
)
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.run_directory import locate_run

if TYPE_CHECKING:
    from ophnet_ray.train.fold_results import FoldsResult


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
            log_to(folds.directory.driver_log)
            results = _train_all(folds)
            # torch takes seconds to load
            from ophnet_ray.train.fold_results import conclude_folds

            return conclude_folds(folds, results)


def open_folds(config: Config, console: Console) -> FoldSet:
    """Check the input and create the folder of the cross-validation, or open it again.

    Raises:
        UserError: The input is wrong, there are fewer cases than folds, or the folder cannot be
            written.
    """
    if config.run.output_pth != RunConfig.output_pth:
        raise UserError(
            f"--output_pth {config.run.output_pth}: each of the --folds has a checkpoint, in "
            "the folder of the folds; leave the flag out, or give one --fold, too"
        )
    resolved, data = check_fold_input(config, console)
    stem = stem_of(resolved.data.csv_path or "")
    name = resolved.run.name or f"{stem}-{resolved.identity_hash(data.data_hash)}"
    directory = locate_run(
        resolved.run.storage_path,
        f"{name}-{resolved.data.folds}folds",
        resolved.run.local_cache_dir,
    )
    directory.create()
    return FoldSet(resolved, directory, data, console)


def _train_all(folds: FoldSet) -> list[TrainingResult]:
    """Train side by side what the running cluster has room for; without one, fold after fold.

    Raises:
        UserError: The input is wrong.
        TrainingError: Folds failed; the others are complete.
        StoppedError: A signal asked to stop; it names the fold.
    """
    room = 1
    if not folds.is_complete():
        runs = locate_folds(folds)
        check_new_folds(runs)
        if find_running_head() is not None:
            # Ray takes seconds to load, which folds that are complete do without
            from ophnet_ray.train.fold_room import provide_for_folds

            room = provide_for_folds(folds, runs)
    configs = {fold: _config_of(folds, fold) for fold in folds.numbers}
    if room == 1:
        outcomes = _train_in_turn(configs, folds.console)
    else:
        folds.console.say(f"{room} folds train side by side")
        train_fold = partial(train, num_sharing=room)
        outcomes = train_side_by_side(configs, room, folds.console, train_fold)
    return _gather(outcomes, len(configs))


def _config_of(folds: FoldSet, fold: int) -> Config:
    """Return the settings of a fold, whose checkpoint goes to the folder of all."""
    config = folds.config_of(fold)
    return replace(config, run=replace(config.run, output_pth=folds.output_of(fold)))


def _train_in_turn(configs: Mapping[int, Config], console: Console) -> dict[int, Outcome]:
    """Train one fold after another in this process; one that fails does not end the others.

    Wrong input does until a fold has shown that the input is right: it would be that of the other
    folds, too. So does an error after which this process can train nothing.

    Raises:
        KeyboardInterrupt: As it was raised, after a line that names the fold.
        Terminated: Likewise.
    """
    outcomes: dict[int, Outcome] = {}
    for fold, config in configs.items():
        console.say(f"fold {fold} of {len(configs)}")
        try:
            with kept_log():  # a run has a log of its own
                outcomes[fold] = train(config, console)
        except (StoppedError, BrokenProcessError) as error:
            outcomes[fold] = error
            break
        except ReportedError as error:
            outcomes[fold] = error
            if is_wrong_for_all(outcomes):
                break
            console.warn(f"fold {fold} of {len(configs)}: {error}")
        except BrokenPipeError:  # nobody reads the lines any more
            raise
        except OSError as error:
            outcomes[fold] = TrainingError(describe_disk_error(error))
            console.warn(f"fold {fold} of {len(configs)}: {outcomes[fold]}")
        except (KeyboardInterrupt, Terminated):
            console.say(f"in fold {fold} of {len(configs)}")
            raise
    return outcomes


def _gather(outcomes: Mapping[int, Outcome], num_folds: int) -> list[TrainingResult]:
    """Return the results of all folds, in their order.

    Raises:
        UserError: As a fold raised it, with its number; likewise the others.
        TrainingError: Likewise; it names all folds that failed.
        StoppedError: Likewise.
    """
    names = {fold: f"fold {fold} of {num_folds}" for fold in sorted(outcomes)}
    stopped = {fold: each for fold in names if isinstance(each := outcomes[fold], StoppedError)}
    if stopped:
        text = "; ".join(f"in {names[fold]}, {error}" for fold, error in stopped.items())
        raise StoppedError(text, next(iter(stopped.values())).exit_code)
    failed = [fold for fold in names if not isinstance(outcomes[fold], TrainingResult)]
    # wrong input first: the user can mend it
    failed.sort(key=lambda fold: not isinstance(outcomes[fold], UserError))
    if failed:
        first, *others = failed
        text = f"{names[first]}: {outcomes[first]}"
        if others:
            text += f"; folds that failed, too: {', '.join(map(str, others))}"
        if len(failed) < len(outcomes) == num_folds:
            text += "; the others are complete, and the same command trains what is missing"
        is_wrong = isinstance(outcomes[first], UserError)
        raise UserError(text) if is_wrong else TrainingError(text)
    found = [outcomes[fold] for fold in names]
    return [result for result in found if isinstance(result, TrainingResult)]
