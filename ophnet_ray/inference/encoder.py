"""Image encoder of a checkpoint or of timm, with its weights: pictures of windows → features."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ophnet_ray.config import Pooling
from ophnet_ray.data.features.encoding import Encoding
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.trained_model import load_frame_model
from ophnet_ray.models.backbone import (
    choose_pooling,
    create_encoder,
    pool_tokens,
    probe_backbone,
    to_tokens,
)
from ophnet_ray.models.checkpoint_file import load_checkpoint, load_weights, read_payload
from ophnet_ray.models.encoder_weights import load_encoder_weights
from ophnet_ray.models.payload import Preprocessing

FLOAT16_MAX = float(np.finfo(np.float16).max)


def load_encoder(source: EncoderSource, device: str = "cpu") -> "Encoder":
    """Load an encoder, in evaluation mode, on a device of torch.

    Raises:
        UserError: The checkpoint, the name or the weights cannot be used.
    """
    if source.is_checkpoint:
        return load_encoder_of(source.name).to(device)
    with _flags_of_encoder():
        return _load_backbone(source).to(device)


class Encoder:
    """A network on its device, in evaluation mode, and the input that it takes.

    Args:
        source: Where it comes from.
        network: Computes features (B, D) and logits (B, K), K may be 0, from normalised images and
            masks.
        backbone: Name of the timm model in it.
        preprocessing: Its input.
        pooling: Tokens that it pools.
        phases: Phases of its classes, K; empty where they are not known.
    """

    def __init__(
        self,
        source: EncoderSource,
        network: "_WithClassifier | _Backbone",
        backbone: str,
        preprocessing: Preprocessing,
        pooling: Pooling,
        *,
        phases: tuple[str, ...] = (),
    ) -> None:
        self.source, self.preprocessing, self.phases = source, preprocessing, phases
        self._backbone, self._pooling = backbone, pooling
        self._network = network.eval()
        self._mean, self._std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)

    @cached_property
    def _weights_hash(self) -> str:
        return hash_weights(self._network.state_dict())

    @property
    def num_classes(self) -> int:
        """Classes of the log-probabilities, K; 0 of a timm model."""
        return self._network.num_classes

    def state(self) -> dict[str, Tensor]:
        """Return all weights on the CPU, by their names in a checkpoint."""
        prefix = self._network.prefix
        return {
            prefix + name.partition(".")[2]: value.cpu()
            for name, value in self._network.state_dict().items()
        }

    def as_module(self) -> nn.Module:
        """Return the encoder with its preprocessing inside, for export: pixels → outputs."""
        return _WithPreprocessing(self._network, self.preprocessing).eval()

    def to(self, device: str) -> "Encoder":
        """Move the network to a device; return this object."""
        self._network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def encoding(self, frame_rate: float, causal: bool) -> Encoding:
        """Describe everything that the features depend on, besides the video."""
        own = self.preprocessing
        return Encoding(
            backbone=self._backbone,
            weights_hash=self._weights_hash,
            image_size=own.image_size,
            mean=own.mean,
            std=own.std,
            mask=own.mask,
            pooling=self._pooling,
            window_size=own.window_size,
            stride=own.stride,
            window_image=own.window_image,
            frame_rate=frame_rate,
            causal=causal,
        )

    def encode(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Start to encode pictures of windows, uint8 (B, S, S, channels).

        On a GPU the call returns before the work is done; reading the result waits for it.

        Returns:
            Features (B, D) and log-probabilities (B, K), float16 on the device. Features beyond
            the range of float16 are cut to it.
        """
        # (B, S, S, C) -> (B, C, S, S), a view: channels last in memory
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self._mean.device)
        with torch.inference_mode():
            image, mask = prepare_batch(
                to_unit(pixels), self._mean, self._std, self.preprocessing.mask
            )
            features, logits = self._network(image, mask)
            features = features.float().clamp(-FLOAT16_MAX, FLOAT16_MAX)
            return features.half(), logits.float().log_softmax(dim=1).half()


class _WithClassifier(nn.Module):
    """The network of a checkpoint: features, and the logits of its classifier."""

    prefix = "model."

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, K)."""
        features: Tensor = self.network.encode(image, mask)  # type: ignore[operator] # a method
        return features, self.network.classifier(features)  # type: ignore[operator] # a module


class _Backbone(nn.Module):
    """A timm model: features, and no logits."""

    prefix, num_classes = "backbone.", 0

    def __init__(self, encoder: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self._pooling = encoder, pooling

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, 0); the masks are not used."""
        tokens = self.encoder.forward_features(image)  # type: ignore[operator] # a method
        features = pool_tokens(to_tokens(self.encoder, tokens, self._pooling), self._pooling)
        return features, features[:, :0]


class _WithPreprocessing(nn.Module):
    """An encoder of uint8 pictures of windows, (B, C, S, S)."""

    def __init__(
        self, network: "_WithClassifier | _Backbone", preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.network, self._mask = network, preprocessing.mask
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute features (B, D) and, with a classifier, log-probabilities (B, K)."""
        image, mask = prepare_batch(to_unit(pixels), self.mean, self.std, self._mask)
        features, logits = self.network(image, mask)
        return (features, logits.log_softmax(dim=1)) if self.network.num_classes else (features,)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names, types and shapes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().view(-1)
        # as bytes: numpy knows no bfloat16
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_encoder_of(path: str) -> Encoder:
    """Load the encoder of a checkpoint: its frame model, or the timm model under its head.

    Raises:
        UserError: The checkpoint cannot be used.
    """
    source = EncoderSource(name=path)
    head = read_payload(path).head
    if head is not None and not head.num_encoder_classes:
        return _load_saved_backbone(source, head.backbone)
    model = load_frame_model(path)
    num_classes = head.num_encoder_classes if head else len(model.phases)
    return Encoder(
        source,
        _WithClassifier(model.network, num_classes),
        head.backbone if head else model.config.model.backbone,
        model.preprocessing,
        model.network.pooling,
        phases=head.encoder_phases if head else model.phases,
    )


def _load_saved_backbone(source: EncoderSource, backbone: str) -> Encoder:
    """Load the timm model that a checkpoint holds under its temporal model."""
    saved, payload = load_checkpoint(source.name)
    own = payload.preprocessing
    network = _Backbone(create_encoder(backbone, own.image_size, pretrained=False), payload.pooling)
    load_weights(network.encoder, saved, network.prefix, source.name, "encoder")
    return Encoder(source, network, backbone, own, payload.pooling)


def _load_backbone(source: EncoderSource) -> Encoder:
    size = source.windows.image_size
    probe_backbone(source.name, size)
    backbone = create_encoder(source.name, size, pretrained=source.weights is None)
    if source.weights is not None:
        load_encoder_weights(backbone, source.weights, source.name, size)
    data = resolve_model_data_config(backbone)
    preprocessing = Preprocessing(
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        mask="none",
        image_size=size,
        window_size=source.windows.window_size,
        stride=source.windows.stride,
        window_image=source.windows.window_image,
    )
    pooling = choose_pooling(backbone)
    network = _Backbone(backbone, pooling)
    return Encoder(source, network, source.name, preprocessing, pooling)


@contextmanager
def _flags_of_encoder() -> Iterator[None]:
    """Name this command's flags in messages that name those of a training run."""
    try:
        yield
    except UserError as error:
        text = str(error).replace(" or --no-pretrained", "").replace("--backbone", "--encoder")
        raise UserError(text) from error
