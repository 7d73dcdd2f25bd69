"""Checkpoint → model that predicts; no other module turns checkpoints into networks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ophnet_ray.config import Config
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.errors import UserError
from ophnet_ray.inference.smoothing import SMOOTHERS, Smooth
from ophnet_ray.models.checkpoint_file import load_checkpoint, load_weights
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import (
    CheckpointPayload,
    Preprocessing,
)

_MODEL_PREFIX = "model."


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, in evaluation mode, and its checkpoint's payload.

    ``payload`` is everything else that the checkpoint holds.
    """

    network: SurgicalPhaseClassificationModel
    payload: CheckpointPayload

    @property
    def phases(self) -> tuple[str, ...]:
        """Id or name of each label's phase."""
        return self.payload.phases

    @property
    def preprocessing(self) -> Preprocessing:
        """Input that the network was trained on."""
        return self.payload.preprocessing

    @property
    def config(self) -> Config:
        """Settings of the training run."""
        return self.payload.settings

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.mean.device

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict probabilities (B, K) from pictures of windows, (B, S, S, channels)."""
        # (B, S, S, C) -> (B, C, S, S), a view: channels last in memory
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            probabilities = self.logits(to_unit(pixels)).softmax(dim=1)
        return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)

    def logits(self, values: Tensor) -> Tensor:
        """Compute logits (B, K) from pictures (B, C, S, S) in [0, 1], not normalised."""
        image, mask = prepare_batch(
            values, self.network.mean, self.network.std, self.preprocessing.mask
        )
        logits: Tensor = self.network(image, mask)
        return logits.float()


class WithPreprocessing(nn.Module):
    """The network with its preprocessing inside, for export.

    Args:
        model: A trained model.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self._mask = model.preprocessing.mask
        self._temperature = model.payload.temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute probabilities (B, K) from pictures of windows, uint8 (B, C, S, S).

        They are at the temperature that the checkpoint keeps.
        """
        image, mask = prepare_batch(
            to_unit(pixels), self.network.mean, self.network.std, self._mask
        )
        logits: Tensor = self.network(image, mask)
        if self._temperature != 1.0:
            logits = logits / self._temperature
        return logits.softmax(dim=1)


def load_model(path: str | Path, device: str = "cpu") -> TrainedModel:
    """Build the network of a checkpoint and load its weights; nothing in it is executed.

    Raises:
        UserError: The file is missing or damaged, another program or a newer version wrote it, or
            it holds a temporal model.
    """
    model = load_frame_model(path, device)
    if model.payload.head is not None:
        raise UserError(
            f"checkpoint {path} holds a temporal model, which this command does not take; give the "
            "frame model, encoder.ckpt in the folder of its run"
        )
    return model


def load_frame_model(path: str | Path, device: str = "cpu") -> TrainedModel:
    """Load the frame model of a checkpoint, also one under a temporal model; see ``load_model``.

    Raises:
        UserError: See ``load_model``; or the encoder under a temporal model is no frame model.
    """
    saved, payload = load_checkpoint(path)
    preprocessing, head = payload.preprocessing, payload.head
    if head is not None and not head.num_encoder_classes:
        raise UserError(
            f"checkpoint {path}: its encoder is a timm model without classifier; nothing but the "
            "temporal model tells phases"
        )
    network = SurgicalPhaseClassificationModel(
        head.num_encoder_classes if head else len(payload.phases),
        head.backbone if head else payload.settings.model.backbone,
        pretrained=False,
        image_size=preprocessing.image_size,
        mask=preprocessing.mask,
        window_image=preprocessing.window_image,
        pooling=payload.pooling,
    )
    load_weights(network, saved, _MODEL_PREFIX, path, "network")
    # as trained, whatever the installed timm thinks of this backbone
    network.mean.copy_(torch.tensor(preprocessing.mean))
    network.std.copy_(torch.tensor(preprocessing.std))
    return TrainedModel(network.eval().to(device), payload)


def choose_smoothing(payload: CheckpointPayload) -> Smooth:
    """Return the smoothing that ``evaluate --keep_choice`` kept; ``none`` before that."""
    kept = payload.smoothing.smooth if payload.smoothing else "none"
    return next((smooth for smooth in SMOOTHERS if smooth == kept), "none")
