"""Folders of checkpoints: write, verify, choose and prune.

A checkpoint is a folder ``epoch=0007`` with ``checkpoint.ckpt`` (tensors and plain values, see
``payload``) and ``manifest.json`` (its sha256, size and metrics, and the manifest's own checksum).
The folder is written under a temporary name and renamed. A checkpoint that is incomplete or altered
later fails its checksum and is skipped for the one before; a resumed run moves it to ``damaged``.
Checkpoints inside an epoch are called ``unfinished/epoch=0007-step=000500``; the end of the epoch
deletes them.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.storage.access import check_writable, ensure_writable
from ophnet_ray.storage.files import sync_folder, write_atomically
from ophnet_ray.storage.local_copies import find_origin, send_to_origin
from ophnet_ray.storage.paths import parent_of
from ophnet_ray.storage.records import DamagedFileError, dump_record, read_record

CHECKPOINT_FILE = "checkpoint.ckpt"
MANIFEST_FILE = "manifest.json"
UNFINISHED = "unfinished"
DAMAGED = "damaged"
_FOLDER_NAME = re.compile(r"epoch=\d+(-step=\d+)?", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk."""

    folder: Path
    epoch: int
    """The epoch, from 0."""
    metrics: dict[str, float]
    """Metrics of the epoch; empty inside an epoch."""
    step: int = 0
    """Finished steps of the epoch; 0 after the whole epoch."""
    num_workers: int = 0
    """Workers whose states it holds, inside an epoch; 0 where that is not known."""

    @property
    def file(self) -> Path:
        """Path of the file that Lightning wrote."""
        return self.folder / CHECKPOINT_FILE


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoints:
    """The checkpoints of a run, read and compared with their checksums.

    Attributes:
        finished: Those of whole epochs, oldest first.
        unfinished: Those inside epochs, oldest first.
        damaged: Folders to which damaged ones were moved.
    """

    finished: tuple[Checkpoint, ...] = ()
    unfinished: tuple[Checkpoint, ...] = ()
    damaged: tuple[Path, ...] = ()

    def last_inside(self, epoch: int) -> Checkpoint | None:
        """Return the last checkpoint inside the epoch."""
        return next((each for each in reversed(self.unfinished) if each.epoch == epoch), None)


def locate_checkpoint(checkpoints: Path, epoch: int, step: int = 0) -> Checkpoint:
    """Return a checkpoint by its position in training, without a look at the disk."""
    return Checkpoint(_folder_of(checkpoints, epoch, step), epoch, {}, step)


def temporary_file(checkpoints: Path, epoch: int, step: int = 0) -> Path:
    """Return the path to which the workers write a checkpoint before ``commit_checkpoint``."""
    final = _folder_of(checkpoints, epoch, step)
    return final.with_name(f".{final.name}.tmp") / CHECKPOINT_FILE


def commit_checkpoint(
    checkpoints: Path,
    epoch: int,
    metrics: dict[str, float],
    step: int = 0,
    *,
    sha256: str = "",
    num_workers: int = 0,
) -> Checkpoint:
    """Give the checkpoint in ``temporary_file`` its manifest and its final name.

    Args:
        checkpoints: Folder of the run's checkpoints.
        epoch: The epoch, from 0.
        metrics: Metrics of the epoch.
        step: Finished steps of the epoch; 0 for the whole epoch.
        sha256: Checksum of the file, if the writer knows it.
        num_workers: Workers whose states it holds, inside an epoch.
    """
    file = temporary_file(checkpoints, epoch, step)
    final = _folder_of(checkpoints, epoch, step)
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
    manifest = {
        "sha256": sha256 or hash_file(file),
        "size_bytes": file.stat().st_size,
        "epoch": epoch,
        "step": step,
        "metrics": metrics,
        "num_workers": num_workers,
    }
    write_atomically(file.parent / MANIFEST_FILE, dump_record(manifest))
    if final.exists():
        # only a damaged checkpoint is written again
        set_aside(checkpoints, final)
    file.parent.rename(final)
    # before older checkpoints are deleted: a loss of power must not undo the one and keep the other
    sync_folder(final.parent)
    return Checkpoint(final, epoch, metrics, step, num_workers)


def check_replaceable(file: Path) -> None:
    """Make sure that ``replace_checkpoint_file`` will find the file intact and can write.

    Raises:
        UserError: The file does not have its checksum, or its folder, here or in the bucket of the
            run, cannot be written.
    """
    if _is_listed(file) and read_intact(file.parent) is None:
        raise UserError(f"checkpoint {file} is damaged: it does not have its checksum")
    try:
        ensure_writable(file.absolute().parent)
    except OSError as error:
        raise UserError(f"checkpoint {file} cannot be written: {error.strerror}") from error
    if (origin := find_origin(file)) is not None:
        check_writable(f"checkpoint {file}:", parent_of(origin))


def replace_checkpoint_file(file: Path, write: Callable[[Path], None]) -> None:
    """Replace a checkpoint's file; inside a run, its manifest, too, here and in the run's bucket.

    A reader finds the old or the new file intact at any moment: for that moment the manifest names
    the checksums of both.

    Args:
        file: The file, in the folder of a checkpoint or alone.
        write: Writes the new content to a path.

    Raises:
        UserError: The old file does not have the checksum of its manifest.
        StorageError: The bucket does not take the files. It keeps an intact checkpoint.
    """
    # hidden, so that no search for checkpoints finds it after a kill
    new, manifest_file = file.with_name(f".{file.name}.new"), file.with_name(MANIFEST_FILE)
    is_listed = _is_listed(file)
    if is_listed and read_intact(file.parent) is None:
        raise UserError(f"checkpoint {file} is damaged: it does not have its checksum")
    try:
        write(new)
        with new.open("rb+") as handle:
            os.fsync(handle.fileno())
        if not is_listed:
            new.replace(file)
            return
        manifest = read_record(manifest_file, dict, "choose another checkpoint")
        replaced = manifest | {"sha256": hash_file(new), "size_bytes": new.stat().st_size}
        manifest["next_sha256"] = replaced["sha256"]
        replaced.pop("next_sha256", None)
        _write_manifest(manifest_file, manifest)
        new.replace(file)
        send_to_origin(file)
        _write_manifest(manifest_file, replaced)
    finally:
        new.unlink(missing_ok=True)


def _is_listed(file: Path) -> bool:
    """Return True for a file whose checksum a manifest beside it holds."""
    return file.name == CHECKPOINT_FILE and file.with_name(MANIFEST_FILE).is_file()


def _write_manifest(path: Path, manifest: dict[str, object]) -> None:
    write_atomically(path, dump_record(manifest))
    send_to_origin(path)


def find_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """Return the intact checkpoints of whole epochs, oldest first; log the damaged ones."""
    found = (read_intact(folder) for folder in _folders_in(checkpoints))
    return [each for each in found if each]


def describe_missing(file: str | Path) -> str:
    """Say that a checkpoint is not there, and the cure where a run may have deleted it.

    A run that goes on does so with one that has just been found as its best.
    """
    folder = Path(file).parent
    text = f"checkpoint {file} does not exist"
    if not _FOLDER_NAME.fullmatch(folder.name) or not folder.parent.is_dir():
        return text
    return f"{text}: a run keeps the best and the last two; give the run, {folder.parent.parent}"


def verify_checkpoints(checkpoints: Path) -> VerifiedCheckpoints:
    """Read each checkpoint once, and move the damaged ones to the folder ``damaged``.

    Nothing is deleted: what a disk has spoilt may be what a person wants to look at. One that
    cannot be read now, e.g. because storage does not answer, is left where it is.
    """
    found: dict[bool, list[Checkpoint]] = {False: [], True: []}
    damaged = []
    for folder in [*_folders_in(checkpoints), *_folders_in(checkpoints / UNFINISHED)]:
        try:
            checkpoint = _verify(folder)
        except (DamagedFileError, FileNotFoundError) as error:
            logger.warning("checkpoint %s: %s", folder.name, error)
            damaged.append(set_aside(checkpoints, folder))
        except OSError as error:
            logger.warning("checkpoint %s cannot be read now: %s", folder.name, error)
        else:
            found[checkpoint.step > 0].append(checkpoint)
    return VerifiedCheckpoints(tuple(found[False]), tuple(found[True]), tuple(damaged))


def find_inside_epoch(checkpoints: Path, epoch: int) -> list[Checkpoint]:
    """Return the checkpoints inside an epoch, by their names alone, in the order of training."""
    positions = map(_position_of, _folders_in(checkpoints / UNFINISHED))
    return [locate_checkpoint(checkpoints, *each) for each in positions if each[0] == epoch]


def newest_position(checkpoints: Path) -> tuple[int, int]:
    """Return (whole epochs, steps of the next one) of the newest checkpoint, intact or not."""
    epochs = [_position_of(each)[0] + 1 for each in _folders_in(checkpoints)]
    steps = [_position_of(each) for each in _folders_in(checkpoints / UNFINISHED)]
    return max([(0, 0), *((epoch, 0) for epoch in epochs), *steps])


def delete_leftovers(checkpoints: Path) -> None:
    """Delete what a killed writer left: a folder without a final name holds no whole checkpoint."""
    for folder in (checkpoints, checkpoints / UNFINISHED):
        for leftover in folder.glob(".epoch=*.tmp"):
            shutil.rmtree(leftover)


def prune_unfinished(checkpoints: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints inside epochs."""
    # by time, not by name: after a damaged checkpoint a run trains an epoch again
    found = (checkpoints / UNFINISHED).glob("epoch=*")
    folders = sorted(found, key=lambda folder: folder.stat().st_mtime_ns)
    for folder in folders[: max(len(folders) - keep, 0)]:
        shutil.rmtree(folder)


def _folder_of(checkpoints: Path, epoch: int, step: int) -> Path:
    name = f"epoch={epoch:04d}"
    return checkpoints / UNFINISHED / f"{name}-step={step:06d}" if step else checkpoints / name


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders with names of checkpoints, in the order of training."""
    named = [each for each in folder.glob("epoch=*") if _FOLDER_NAME.fullmatch(each.name)]
    return sorted(named, key=_position_of)


def _position_of(folder: Path) -> tuple[int, int]:
    """Return epoch and step in the name of a checkpoint's folder."""
    epoch, _, step = folder.name.removeprefix("epoch=").partition("-step=")
    return int(epoch), int(step or 0)


def set_aside(checkpoints: Path, folder: Path) -> Path:
    """Move a checkpoint to the folder ``damaged``; return its new folder."""
    (checkpoints / DAMAGED).mkdir(exist_ok=True)
    for number in count(1):
        target = checkpoints / DAMAGED / f"{folder.name}.{number}"
        if not target.exists():
            break
    return folder.rename(target)


def read_intact(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None, with a line in the log, if it is damaged."""
    try:
        return _verify(folder)
    except (OSError, DamagedFileError) as error:
        logger.warning("checkpoint %s: %s", folder.name, error)
        return None


def _verify(folder: Path) -> Checkpoint:
    """Read the checkpoint in a folder.

    Raises:
        DamagedFileError: It is not what was written.
        OSError: It cannot be read.
    """

    def compare(manifest: dict[str, Any]) -> Checkpoint:
        epoch, metrics, step = manifest["epoch"], manifest["metrics"], manifest.get("step", 0)
        if (epoch, step) != _position_of(folder):
            raise ValueError(f"it names epoch {epoch}, step {step}")
        if hash_file(folder / CHECKPOINT_FILE) not in (
            manifest["sha256"],
            manifest.get("next_sha256"),
        ):
            raise ValueError(f"{CHECKPOINT_FILE} has another checksum")
        return Checkpoint(folder, epoch, dict(metrics), step, manifest.get("num_workers", 0))

    return read_record(folder / MANIFEST_FILE, compare, "it is skipped")


def best_checkpoint(checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """Return the checkpoint with the highest macro-F1; among equals, the lowest validation loss."""
    return max(checkpoints, key=lambda checkpoint: rank_epoch(checkpoint.metrics))


def prune_checkpoints(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Delete all but the best and the last two; return the remaining ones, oldest first.

    Two stay so that a damaged last checkpoint costs one epoch and not the run.
    """
    best = best_checkpoint(checkpoints)
    kept = {checkpoint.epoch for checkpoint in (best, *checkpoints[-2:])}
    for checkpoint in checkpoints:
        if checkpoint.epoch not in kept:
            shutil.rmtree(checkpoint.folder)
    return [checkpoint for checkpoint in checkpoints if checkpoint.epoch in kept]
