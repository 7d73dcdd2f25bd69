"""A checkpoint of an encoder and its temporal model: both in one file, and the latter out of it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoint_file import load_checkpoint, load_weights
from ophnet_ray.models.init_checkpoint import describe_origin
from ophnet_ray.models.payload import PAYLOAD_KEY, CheckpointPayload
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.storage.files import open_atomically

HEAD_PREFIX = "head."


def write_temporal_checkpoint(
    encoder: Mapping[str, Tensor],
    trained: str | Path,
    target: Path,
    frame_model: CheckpointPayload | None = None,
) -> None:
    """Write one checkpoint with an encoder and the temporal model that was trained on its features.

    Args:
        encoder: Weights of the encoder, by their names in the file: ``model.…`` of a frame model,
            ``backbone.…`` of a timm network alone.
        trained: Checkpoint of the temporal model's training.
        target: File to write, atomically.
        frame_model: Payload of the encoder's checkpoint; None: a timm network alone.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    saved, payload = load_checkpoint(trained)
    head = {name: value for name, value in saved.items() if name.startswith(HEAD_PREFIX)}
    if frame_model is not None:
        payload = _trace(payload, frame_model)
    content = {"state_dict": {**encoder, **head}, PAYLOAD_KEY: payload.to_dict()}
    with open_atomically(target.parent, lambda: target.name) as file:
        torch.save(content, file)


def _trace(payload: CheckpointPayload, frame_model: CheckpointPayload) -> CheckpointPayload:
    """Add what the encoder has seen: cases before its training, or those of another training."""
    own, trained = payload.training, frame_model.training
    if trained.case_hashes == own.case_hashes:
        training = replace(own, video_hashes=trained.video_hashes)
        return replace(payload, training=training, origin=frame_model.origin)
    return replace(payload, origin=describe_origin(frame_model))


def load_head(path: str | Path, device: str = "cpu") -> TemporalModel:
    """Build the temporal model of a checkpoint and load its weights, in evaluation mode.

    Raises:
        UserError: The checkpoint cannot be read, or holds none.
    """
    saved, payload = load_checkpoint(path)
    if payload.head is None:
        raise UserError(f"checkpoint {path} holds no temporal model")
    model = TemporalModel(payload.head.spec)
    load_weights(model, saved, HEAD_PREFIX, path, "temporal model")
    return model.eval().to(device)
