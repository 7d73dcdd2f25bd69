"""Image encoders from timm: create one, find the width of its tokens, pool them."""

import difflib
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor

from ophnet_ray.config import Pooling
from ophnet_ray.errors import UserError, one_line


@cache
def probe_backbone(
    backbone: str, image_size: int, pooling: Pooling | None = None
) -> tuple[int, frozenset[str]]:
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
    tokens = to_tokens(encoder, features, pooling or choose_pooling(encoder))
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
    options = input_options(backbone, image_size)
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


def input_options(backbone: str, image_size: int) -> dict[str, Any]:
    """Return the options of ``timm.create_model`` for images of the given size.

    Networks with windows or position tables have a fixed input size; others refuse the option.
    """
    settings = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    is_fixed = settings is not None and settings.fixed_input_size
    return {"img_size": image_size} if is_fixed else {}


def choose_pooling(encoder: Any) -> Pooling:
    """Return the pooling that suits the tokens of an encoder."""
    if not _count_prefix_tokens(encoder):
        return "all"
    return "class_and_patches" if _has_class_token(encoder) else "patches"


def to_tokens(encoder: Any, features: Tensor, pooling: Pooling = "all") -> Tensor:
    """Return the tokens (B, N, D) that are pooled: the class token, if it is used, then patches.

    Feature maps are (B, C, H, W) or (B, H, W, C). Vision transformers put class and register
    tokens before the patches; registers describe no part of the image and are left out.
    """
    if features.ndim == 3:
        patches = features[:, _count_prefix_tokens(encoder) :]
        if pooling == "patches":
            return patches
        if pooling == "class_and_patches":
            return torch.cat([features[:, :1], patches], dim=1)
        return features
    if getattr(encoder, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def pool_tokens(tokens: Tensor, pooling: Pooling) -> Tensor:
    """Return the feature of an image: (B, D), or (B, 2D) with the class token before the mean."""
    if pooling == "class_and_patches":
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    return tokens.mean(dim=1)


def _count_prefix_tokens(encoder: Any) -> int:
    return int(getattr(encoder, "num_prefix_tokens", None) or 0)


def _has_class_token(encoder: Any) -> bool:
    own = getattr(encoder, "cls_token", None)
    return own is not None or bool(getattr(encoder, "has_class_token", False))
