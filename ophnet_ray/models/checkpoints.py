"""Write, verify, choose and load checkpoints.

A checkpoint is a folder ``epoch=0007`` with ``checkpoint.ckpt`` (tensors and plain values, loads
with ``weights_only=True``) and ``manifest.json`` (its sha256, size and metrics). The folder is
written under a temporary name and renamed; what is torn or altered later fails its checksum and is
passed over for the one before. Inside an epoch there may be ``unfinished/epoch=0007-step=000500``,
which the end of the epoch makes needless.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.hashing import hash_file
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.storage.files import write_atomically

CHECKPOINT_FILE = "checkpoint.ckpt"
MANIFEST_FILE = "manifest.json"
UNFINISHED = "unfinished"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk.

    ``epoch`` counts from 0; ``metrics`` are those of its epoch, none inside it; ``step`` is the
    number of steps of the epoch that are done, 0 for all.
    """

    folder: Path
    epoch: int
    metrics: dict[str, float]
    step: int = 0

    @property
    def file(self) -> Path:
        """The Lightning checkpoint."""
        return self.folder / CHECKPOINT_FILE


def temporary_file(checkpoints: Path, epoch: int, step: int = 0) -> Path:
    """Where the workers write a checkpoint before ``commit_checkpoint``."""
    final = _folder_of(checkpoints, epoch, step)
    return final.with_name(f".{final.name}.tmp") / CHECKPOINT_FILE


def commit_checkpoint(
    checkpoints: Path, epoch: int, metrics: dict[str, float], step: int = 0
) -> Checkpoint:
    """Make the checkpoint in ``temporary_file`` the one of its epoch, whole or not at all.

    Args:
        checkpoints: Folder of the run's checkpoints.
        epoch: Counted from 0.
        metrics: Of this epoch.
        step: Steps of the epoch that are done, 0 for all.
    """
    file = temporary_file(checkpoints, epoch, step)
    final = _folder_of(checkpoints, epoch, step)
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
    manifest = {
        "sha256": hash_file(file),
        "size_bytes": file.stat().st_size,
        "epoch": epoch,
        "step": step,
        "metrics": metrics,
    }
    write_atomically(file.parent / MANIFEST_FILE, json.dumps(manifest, indent=1).encode())
    if final.exists():
        # only a torn one is written again
        shutil.rmtree(final)
    file.parent.rename(final)
    return Checkpoint(final, epoch, metrics, step)


def find_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """The checkpoints of whole epochs, oldest first; damaged ones are named in the log."""
    folders = sorted(checkpoints.glob("epoch=*"))
    return [found for folder in folders if (found := _read_intact(folder))]


def find_unfinished(checkpoints: Path, epoch: int) -> Checkpoint | None:
    """The last one inside the epoch that is not damaged."""
    folders = sorted((checkpoints / UNFINISHED).glob(f"epoch={epoch:04d}-*"), reverse=True)
    return next((found for folder in folders if (found := _read_intact(folder))), None)


def prune_unfinished(checkpoints: Path, keep: int) -> None:
    """Delete all but the last ``keep`` checkpoints inside epochs, and what a killed run left."""
    # by time, not by name: a run that fell back does an epoch again
    found = (checkpoints / UNFINISHED).glob("epoch=*")
    folders = sorted(found, key=lambda folder: folder.stat().st_mtime_ns)
    torn = (checkpoints / UNFINISHED).glob(".epoch=*")
    for folder in (*folders[: max(len(folders) - keep, 0)], *torn):
        shutil.rmtree(folder)


def _folder_of(checkpoints: Path, epoch: int, step: int) -> Path:
    name = f"epoch={epoch:04d}"
    return checkpoints / UNFINISHED / f"{name}-step={step:06d}" if step else checkpoints / name


def _read_intact(folder: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        intact = hash_file(folder / CHECKPOINT_FILE) == manifest["sha256"]
    except (OSError, ValueError) as error:
        logger.warning("checkpoint %s is passed over: %s", folder, error)
        return None
    if not intact:
        logger.warning("checkpoint %s is damaged and passed over", folder)
        return None
    return Checkpoint(folder, manifest["epoch"], manifest["metrics"], manifest.get("step", 0))


def best_checkpoint(checkpoints: Iterable[Checkpoint]) -> Checkpoint:
    """The one with the highest macro-F1; of equals the one with the lower validation loss."""
    return max(checkpoints, key=lambda checkpoint: rank_epoch(checkpoint.metrics))


def prune_checkpoints(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Delete all but the best and the last ones; return what is left, oldest first.

    More than one of the last stays, so that a torn newest one costs an epoch and not the run.
    """
    kept = {c.epoch for c in (best_checkpoint(checkpoints), *checkpoints[-2:])}
    for checkpoint in checkpoints:
        if checkpoint.epoch not in kept:
            shutil.rmtree(checkpoint.folder)
    return [checkpoint for checkpoint in checkpoints if checkpoint.epoch in kept]
