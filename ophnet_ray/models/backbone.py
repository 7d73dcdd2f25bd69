"""Image encoders from timm: create one, load its weights, find the width of its tokens."""

import difflib
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import absolute, is_remote

_ENCODER_PREFIXES = ("model.image_encoder.", "image_encoder.", "module.", "model.")
"""Prefixes that training programs put before the names of an encoder's weights."""


@cache
def probe_backbone(backbone: str, image_size: int) -> tuple[int, frozenset[str]]:
    """Run one forward and backward pass of an encoder on tensors without storage.

    timm's attributes do not always give the width of the output.

    Returns:
        Number of features per token, and the names of the parameters that get no gradient.

    Raises:
        UserError: timm has no such backbone, or it does not accept this image size.
    """
    if not timm.is_model(backbone.partition(".")[0]):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"--backbone {backbone}: timm has no such model{hint}")
    try:
        with torch.device("meta"):
            # evaluation mode: batch norm cannot train on the single pixel of a small image
            encoder = create_encoder(backbone, image_size, pretrained=False).eval()
            features = encoder.forward_features(torch.empty(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = one_line(error, max_chars=200)
        raise UserError(
            f"--backbone {backbone} does not accept --image_size {image_size}: {reason}"
        ) from error
    tokens = to_tokens(encoder, features)
    tokens.sum().backward()
    unused = frozenset(
        name for name, parameter in encoder.named_parameters() if parameter.grad is None
    )
    return int(tokens.shape[-1]), unused


def create_encoder(backbone: str, image_size: int, pretrained: bool) -> Any:
    """Create a timm network without classifier, for images of the given size.

    Raises:
        UserError: The pretrained weights cannot be fetched.
    """
    options: dict[str, Any] = {}
    settings = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    # networks with windows or position tables have a fixed input size; others refuse the option
    if settings is not None and settings.fixed_input_size:
        options["img_size"] = image_size
    try:
        return timm.create_model(backbone, pretrained=pretrained, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = one_line(error, max_chars=160)
        raise UserError(
            f"--backbone {backbone}: its pretrained weights cannot be fetched ({reason}); "
            "give --backbone_weights FILE or --no-pretrained"
        ) from error


def load_encoder_weights(encoder: Any, path: str) -> None:
    """Load all weights of the encoder from a file; a classifier's weights in it are ignored.

    Args:
        encoder: A timm network.
        path: Local file or bucket URI: .safetensors, .pt or .ckpt.

    Raises:
        UserError: The file cannot be read or does not fit the encoder.
    """
    try:
        local = str(fetch_version(path) if is_remote(path) else Path(absolute(path)))
    except OSError as error:
        raise UserError(f"--backbone_weights {error}") from error
    if not Path(local).is_file():
        raise UserError(f"--backbone_weights {path} does not exist")
    try:
        # weights_only: a weight file is data, never code to run
        state = load_state_dict(local, use_ema=False, weights_only=True)
    except Exception as error:
        reason = one_line(error, max_chars=160)
        raise UserError(f"--backbone_weights {path} is not a file of weights ({reason})") from error
    wanted = encoder.state_dict()
    for prefix in _ENCODER_PREFIXES:
        if any(name.startswith(prefix) for name in state):
            state = {
                name.removeprefix(prefix): tensor
                for name, tensor in state.items()
                if name.startswith(prefix)
            }
            break
    missing = [name for name in wanted if name not in state]
    wrong = [
        name
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or wrong:
        first = f"it lacks {missing[0]}" if missing else f"{wrong[0]} has another shape"
        raise UserError(
            f"--backbone_weights {path} does not fit the backbone: {first} "
            f"({len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of another shape)"
        )
    encoder.load_state_dict({name: state[name] for name in wanted})


def to_tokens(encoder: Any, features: Tensor) -> Tensor:
    """Flatten a feature map (B, C, H, W) or (B, H, W, C) to tokens (B, N, D); keep tokens."""
    if features.ndim == 3:
        return features
    if getattr(encoder, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)
