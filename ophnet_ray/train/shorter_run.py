"""Continuation of a complete run with fewer epochs, by the same command with more of them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from ophnet_ray.distributed.resources import Resources
from ophnet_ray.hashing import hash_identity
from ophnet_ray.storage.files import delete_object
from ophnet_ray.storage.paths import join, stem_of
from ophnet_ray.train.extension import may_extend
from ophnet_ray.train.run import Run
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.same_run import check_resources
from ophnet_ray.wording import say_count


def is_extended(run: Run) -> bool:
    """Return True for a complete run with a name that the command gives more epochs."""
    directory = run.directory
    if run.config.run.name is None or not directory.result.exists():
        return False
    return bool(directory.read_config()["max_epochs"] < run.config.training.max_epochs)


def continue_shorter_run(run: Run, resources: Resources) -> None:
    """Let a run begin where one with fewer epochs ended, if there is one that is complete.

    A run with a name continues in its folder. One without has a folder of its own, which receives
    the checkpoints of the other, if that took the same resources; in a bucket it is not looked for.
    The weights are the same as without: epochs do not depend on how many follow.

    Args:
        run: A locked run. Nothing may refuse its command any more: the result is deleted.
        resources: Of the command.

    Raises:
        UserError: The run with a name began with other resources.
    """
    directory, is_named = run.directory, run.config.run.name is not None
    if is_extended(run):
        check_resources(directory, resources.describe())
        before = directory.read_config()["max_epochs"]
        run.console.say(f"continuing {directory.location} after {say_count(before, 'epoch')}")
        _reopen(directory)
    elif not (is_named or directory.is_in_bucket or any(_checkpoints_in(directory))):
        shorter = find_shorter_run(run)
        if shorter is not None and shorter.read_resources() == resources.describe():
            run.console.say(f"continuing from the complete run {shorter.location}")
            _copy_training(shorter, directory)


def find_shorter_run(run: Run) -> RunDirectory | None:
    """Return the longest complete run that differs in a smaller number of epochs alone."""
    identity, stem = run.config.identity(), stem_of(run.config.data.csv_path or "")
    if not may_extend(identity):
        return None
    there = {folder.name: folder for folder in run.directory.path.parent.iterdir()}
    for max_epochs in range(run.config.training.max_epochs - 1, 0, -1):
        own_hash = hash_identity({**identity, "max_epochs": max_epochs}, run.data.data_hash)
        found = there.get(f"{stem}-{own_hash}")
        if found is not None and RunDirectory(found).result.exists():
            return RunDirectory(found)
    return None


def _reopen(directory: RunDirectory) -> None:
    """Delete the result and the pages of a complete run."""
    # the result last: without it the run is not complete, and nothing here is looked at again
    for path in (directory.report, directory.scores, directory.result):
        path.unlink(missing_ok=True)
        if directory.mirror:
            delete_object(join(directory.mirror.uri, path.name))


def _copy_training(source: RunDirectory, target: RunDirectory) -> None:
    """Copy what a run resumes from; the order allows a kill at any moment."""
    if source.rollbacks.exists():
        shutil.copy2(source.rollbacks, target.rollbacks)
    if source.tensorboard.exists():
        shutil.copytree(source.tensorboard, target.tensorboard, dirs_exist_ok=True)
    target.checkpoints.mkdir(exist_ok=True)
    # oldest first: the best one is there before those after it
    for folder in sorted(_checkpoints_in(source)):
        hidden = target.checkpoints / f".{folder.name}.tmp"
        shutil.copytree(folder, hidden, dirs_exist_ok=True)
        hidden.rename(target.checkpoints / folder.name)


def _checkpoints_in(directory: RunDirectory) -> Iterator[Path]:
    """Yield the folders of checkpoints of whole epochs."""
    return directory.checkpoints.glob("epoch=*")
