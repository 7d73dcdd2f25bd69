"""Checkpoints as a train worker keeps them."""

from pathlib import Path

import torch

from ophnet_ray.models.checkpoints import Checkpoint, commit_checkpoint, temporary_file
from ophnet_ray.train.checkpoint_io import SyncedCheckpointIO


def keep_checkpoint(
    checkpoints: Path, epoch: int, macro_f1: float, step: int = 0, num_weights: int = 200
) -> Checkpoint:
    """Write a checkpoint whose weights tell its epoch and step, and commit it."""
    writer = SyncedCheckpointIO()
    weights = torch.full((num_weights,), float(epoch * 100 + step))
    writer.save_checkpoint({"weights": weights}, temporary_file(checkpoints, epoch, step))
    metrics = {} if step else {"val_macro_f1": macro_f1, "val_loss": 1.0}
    return commit_checkpoint(checkpoints, epoch, metrics, step=step, sha256=writer.sha256)
