"""A checkpoint → a model that predicts: the one place where checkpoints become networks again."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ophnet_ray.config import Config, MaskKind
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.inference.smoothing import SMOOTHERS, PhaseDynamics, Smooth
from ophnet_ray.models.checkpoints import FORMAT_VERSION, PAYLOAD_KEY, load_checkpoint
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.storage.files import open_atomically

_MODEL_PREFIX = "model."
SMOOTHING_KEY = "smoothing_choice"
"""In the payload: which smoothing was best, and on which split that was found."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What the network was trained to take: means of ``window_size`` RGB frames, normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str
    mask: MaskKind
    image_size: int
    window_size: int
    stride: int

    @classmethod
    def from_payload(cls, values: dict[str, Any]) -> Self:
        """From a checkpoint's own; what a newer version may have added is left out."""
        named = {field.name: values[field.name] for field in fields(cls)}
        return cls(**named | {"mean": tuple(named["mean"]), "std": tuple(named["std"])})


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, in evaluation, and what goes with it.

    ``phases[label]`` is a phase's id or name; ``payload`` holds the checkpoint's plain values.
    """

    network: SurgicalPhaseClassificationModel
    phases: tuple[str, ...]
    preprocessing: Preprocessing
    payload: dict[str, Any]

    @property
    def config(self) -> Config:
        """The settings it was trained with."""
        return read_config_of(self.payload)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.mean.device

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean images (B, S, S, 3), RGB → probabilities (B, K)."""
        # (B, S, S, 3) -> (B, 3, S, S), a view: channels last in memory
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            probabilities = self.logits(to_unit(pixels)).softmax(dim=1)
        return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)

    def logits(self, values: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1], not normalised → logits (B, K)."""
        image, mask = prepare_batch(
            values, self.network.mean, self.network.std, self.preprocessing.mask
        )
        logits: Tensor = self.network(image, mask)
        return logits.float()


class WithPreprocessing(nn.Module):
    """The network with its preprocessing inside: what is exported.

    Args:
        model: A trained model.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.network = model.network
        self._mask = model.preprocessing.mask

    def forward(self, pixels: Tensor) -> Tensor:
        """Mean images, uint8 (B, 3, S, S), RGB → probabilities (B, K)."""
        image, mask = prepare_batch(
            to_unit(pixels), self.network.mean, self.network.std, self._mask
        )
        probabilities: Tensor = self.network(image, mask).softmax(dim=1)
        return probabilities


def load_model(path: str | Path, device: str = "cpu") -> TrainedModel:
    """Build the network of a checkpoint and load its weights; nothing in it is executed.

    Raises:
        UserError: It is missing, damaged, of another program or of a newer version.
    """
    content = load_checkpoint(path)
    payload = _payload_of(content, path)
    phases = tuple(payload["phases"])
    preprocessing = Preprocessing.from_payload(payload["preprocessing"])
    config = read_config_of(payload)
    network = SurgicalPhaseClassificationModel(
        len(phases),
        config.model.backbone,
        pretrained=False,
        image_size=preprocessing.image_size,
        mask=preprocessing.mask,
    )
    weights = {
        name.removeprefix(_MODEL_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(_MODEL_PREFIX)
    }
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = one_line(error, max_chars=200)
        raise UserError(f"checkpoint {path}: its weights do not fit the network ({reason})") from (
            error
        )
    # as trained, whatever the installed timm thinks of this backbone
    network.mean.copy_(torch.tensor(preprocessing.mean))
    network.std.copy_(torch.tensor(preprocessing.std))
    return TrainedModel(network.eval().to(device), phases, preprocessing, payload)


def read_payload(path: str | Path) -> dict[str, Any]:
    """A checkpoint's plain values, without reading its weights.

    Raises:
        UserError: See ``load_model``.
    """
    return _payload_of(load_checkpoint(path, is_mapped=True), path)


def read_dynamics(payload: dict[str, Any]) -> PhaseDynamics | None:
    """How phases followed each other in training; None when it saw trimmed clips alone."""
    values = payload.get("dynamics")
    return PhaseDynamics.from_payload(values) if values else None


def choose_smoothing(payload: dict[str, Any]) -> Smooth:
    """What ``evaluate --keep_choice`` found best on held-out cases; ``none`` before that."""
    choice = payload.get(SMOOTHING_KEY, {}).get("smooth", "none")
    return choice if choice in SMOOTHERS else "none"


def keep_smoothing(path: str | Path, choice: Mapping[str, Any]) -> None:
    """Write a choice of smoothing, and where it was made, into a checkpoint; nothing else changes.

    Args:
        path: The checkpoint.
        choice: ``smooth``, ``chosen_on`` (the split) and ``by`` (the scores).
    """
    content = load_checkpoint(path)
    content[PAYLOAD_KEY][SMOOTHING_KEY] = dict(choice)
    target = Path(path)
    with open_atomically(target.parent, lambda: target.name) as file:
        torch.save(content, file)


def _payload_of(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    payload: dict[str, Any] = content[PAYLOAD_KEY]
    if payload["format_version"] > FORMAT_VERSION:
        raise UserError(f"checkpoint {path} is of a newer ophnet-ray; install that one")
    return payload


def read_config_of(payload: dict[str, Any]) -> Config:
    """The settings in a checkpoint; those that this version does not know are left out."""
    known = Config().to_flat()
    return Config().replace_flat(**{k: v for k, v in payload["config"].items() if k in known})
