"""Files of a run's epochs, kept by the first train worker: checkpoints and ``metrics.jsonl``."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L  # noqa: N812 - Lightning's own convention

from ophnet_ray.models.checkpoints import (
    Checkpoint,
    commit_checkpoint,
    prune_checkpoints,
    prune_unfinished,
    temporary_file,
)
from ophnet_ray.storage.records import DamagedFileError
from ophnet_ray.train.checkpoint_io import SyncedCheckpointIO
from ophnet_ray.train.run_directory import RunDirectory

logger = logging.getLogger(__name__)


class EpochFiles:
    """Checkpoints of the best and the last epochs, and of the epoch that is being trained.

    A checkpoint is written under a temporary name, by all workers together. The first worker then
    commits it: the file gets its name and checksum, older ones are deleted, and the bucket of the
    run, if any, gets the same files.

    Args:
        run: Folder of the run.
        checkpoints: Checkpoints of the finished epochs, oldest first.
    """

    def __init__(self, run: RunDirectory, checkpoints: Sequence[Checkpoint]) -> None:
        self._run = run
        self._checkpoints = list(checkpoints)

    def name_epoch(self, epoch: int) -> Path:
        """Return the temporary name of an epoch's checkpoint; epochs count from 0."""
        return temporary_file(self._run.checkpoints, epoch)

    def commit_epoch(self, trainer: L.Trainer, metrics: Mapping[str, float]) -> Checkpoint:
        """Commit the checkpoint that ``trainer`` has just written under ``name_epoch``.

        Args:
            trainer: Trainer at the end of the epoch.
            metrics: Scores of the epoch, by which checkpoints are ranked.
        """
        folder = self._run.checkpoints
        sha256 = _checksum_of_last_file(trainer)
        written = commit_checkpoint(folder, trainer.current_epoch, dict(metrics), sha256=sha256)
        self._checkpoints = prune_checkpoints([*self._checkpoints, written])
        prune_unfinished(folder, keep=0)
        self._run.send_checkpoints()
        return written

    def name_unfinished(self, epoch: int, step: int) -> Path:
        """Return the temporary name of a checkpoint after ``step`` steps of an epoch."""
        return temporary_file(self._run.checkpoints, epoch, step)

    def commit_unfinished(self, trainer: L.Trainer, step: int) -> None:
        """Commit the checkpoint that was just written under ``name_unfinished``."""
        folder = self._run.checkpoints
        commit_checkpoint(
            folder,
            trainer.current_epoch,
            {},
            step,
            sha256=_checksum_of_last_file(trainer),
            num_workers=trainer.world_size,
        )
        # the one before stays in case this one is damaged
        prune_unfinished(folder, keep=2)
        self._run.send_checkpoints()

    def restore_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Make ``metrics.jsonl`` hold the epochs of a checkpoint from which the run goes on.

        A run that was killed after a checkpoint may not have written the epoch's record yet; when
        it was the last epoch, no later one would.
        """
        try:
            is_same = list(history) == self._run.read_metrics()
        except DamagedFileError as error:
            logger.warning("%s", error)
            is_same = False
        if not is_same:
            self._run.write_metrics(history)


def _checksum_of_last_file(trainer: L.Trainer) -> str:
    writer = trainer.strategy.checkpoint_io
    return writer.sha256 if isinstance(writer, SyncedCheckpointIO) else ""
