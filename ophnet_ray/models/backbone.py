"""Image encoders from timm: create one, find the width of its tokens, pool them."""

import difflib
from functools import cache
from typing import Any

import timm
import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers
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


def create_encoder(
    backbone: str, image_size: int, pretrained: bool, *, drop_path_rate: float | None = None
) -> Any:
    """Create a timm network without classifier, for images of the given size.

    Args:
        backbone: Name of a timm model.
        image_size: Height and width of the input, pixels.
        pretrained: Fetch timm's weights.
        drop_path_rate: Rate of stochastic depth (arXiv:1603.09382); None: as timm sets it.

    Raises:
        UserError: The pretrained weights cannot be fetched, or the network has no stochastic depth.
    """
    options = input_options(backbone, image_size)
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    try:
        return timm.create_model(backbone, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        if not drop_path_rate:
            return create_encoder(backbone, image_size, pretrained)
        raise UserError(
            f"--drop_path_rate {drop_path_rate}: the backbone {backbone} has no residual branches "
            "to drop; give 0"
        ) from error
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


def group_layers(encoder: Any, *, coarse: bool = False) -> dict[str, int]:
    """Return the layer of each parameter of an encoder, from 0, by its name.

    Args:
        encoder: A timm network.
        coarse: Count stages, as timm defines them for the network, not blocks.
    """
    if not hasattr(encoder, "group_matcher"):
        return dict(auto_group_layers(encoder))
    return dict(group_parameters(encoder, encoder.group_matcher(coarse=coarse), reverse=True))


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
