"""The network: an image encoder of timm, its tokens fused with the masks, a classifier."""

import difflib
from functools import cache
from pathlib import Path
from typing import Any, Self

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from ophnet_ray.config import MaskKind, ModelConfig, WindowConfig
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import absolute, is_remote

MASK_PATCH = 16
HIDDEN_FEATURES = 512
DROPOUT = 0.1
_ENCODER_PREFIXES = ("model.image_encoder.", "image_encoder.", "module.", "model.")


class MaskFusion(nn.Module):
    """Image tokens look at the masks: multi-head attention with the tokens as queries.

    Keys and values are non-overlapping patches of the masks, projected linearly, with a learned
    position, and one learned token that says "nothing here"; so there is never a single key, whose
    softmax would be 1 whatever the image. The result is added to the tokens with a small learned
    scale a channel (LayerScale, arXiv:2103.17239).
    """

    def __init__(self, num_features: int, image_size: int, num_heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, num_features, kernel_size=MASK_PATCH, stride=MASK_PATCH)
        num_patches = (image_size // MASK_PATCH) ** 2
        self.position = nn.Parameter(torch.randn(1, num_patches, num_features) * 0.02)
        self.null_token = nn.Parameter(torch.randn(1, 1, num_features) * 0.02)
        self.norm_query = nn.LayerNorm(num_features)
        self.norm_key = nn.LayerNorm(num_features)
        self.attention = nn.MultiheadAttention(num_features, num_heads, batch_first=True)
        # small at first: the encoder has to learn to see before raw masks can help it
        self.scale = nn.Parameter(torch.full((num_features,), 0.01))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), (B, 2, H, W) → (B, N, D)."""
        keys = self.patches(mask).flatten(2).transpose(1, 2) + self.position  # (B, P, D)
        # shape[0], not len(): an exported graph takes batches of any size
        keys = torch.cat([self.null_token.expand(keys.shape[0], -1, -1), keys], dim=1)
        keys = self.norm_key(keys)
        fused, _ = self.attention(self.norm_query(tokens), keys, keys, need_weights=False)
        out: Tensor = tokens + self.scale * fused
        return out


class SurgicalPhaseClassificationModel(nn.Module):
    """Classify mean images of surgical video by phase.

    Args:
        num_classes: Phases.
        backbone: Any timm model name.
        pretrained: Fetch timm's weights for the encoder.
        image_size: Height and width of the input, a multiple of 32.
        backbone_weights: File with weights for the encoder; goes before ``pretrained``.
        mask: ``none`` leaves the fusion out.

    Attributes:
        image_encoder: The timm network.
        mean: What the encoder expects inputs in [0, 1] to be normalised with, float32 (3,).
        std: Likewise.

    Raises:
        UserError: No such backbone; weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = ModelConfig.backbone,
        pretrained: bool = ModelConfig.pretrained,
        image_size: int = WindowConfig.image_size,
        *,
        backbone_weights: str | None = None,
        mask: MaskKind = "rg",
    ) -> None:
        super().__init__()
        num_features, unused = probe_backbone(backbone, image_size)
        self.image_encoder = _create_encoder(
            backbone, image_size, pretrained and backbone_weights is None
        )
        if backbone_weights is not None:
            _load_encoder(self.image_encoder, backbone_weights)
        for name, parameter in self.image_encoder.named_parameters():
            # timm's own classifier layers, which forward_features leaves out; distributed
            # training would wait for their gradients
            parameter.requires_grad_(name not in unused)
        data = resolve_model_data_config(self.image_encoder)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(data["mean"]), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]), persistent=False)
        num_heads = next(heads for heads in (8, 4, 2, 1) if num_features % heads == 0)
        self.fusion = None if mask == "none" else MaskFusion(num_features, image_size, num_heads)
        self.norm = nn.LayerNorm(num_features)
        self.classifier = nn.Sequential(
            nn.Linear(num_features, HIDDEN_FEATURES),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN_FEATURES, num_classes),
        )
        # windows of one case are not independent: their statistics would spoil good ones
        self.freeze_batch_norm = pretrained or backbone_weights is not None

    @classmethod
    def from_config(cls, num_classes: int, config: ModelConfig, image_size: int) -> Self:
        """The network that a run's settings describe."""
        return cls(
            num_classes,
            config.backbone,
            config.pretrained,
            image_size,
            backbone_weights=config.backbone_weights,
            mask=config.mask,
        )

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) and masks (B, 2, H, W) → logits (B, K)."""
        tokens = _to_tokens(self.image_encoder, self.image_encoder.forward_features(image))
        if self.fusion is not None:
            tokens = self.fusion(tokens, mask)
        logits: Tensor = self.classifier(self.norm(tokens).mean(dim=1))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; frozen batch norms stay in evaluation."""
        super().train(mode)
        if mode and self.freeze_batch_norm:
            for module in self.image_encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                    module.eval()
        return self


@cache
def probe_backbone(backbone: str, image_size: int) -> tuple[int, frozenset[str]]:
    """What a forward and backward pass says of an encoder, on tensors without storage.

    timm's attributes do not always tell the width that comes out.

    Returns:
        Features of a token, and the names of the parameters that get no gradient.

    Raises:
        UserError: No such backbone, or it does not take this image size.
    """
    if not timm.is_model(backbone.partition(".")[0]):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"--backbone {backbone}: timm has no such model{hint}")
    try:
        with torch.device("meta"):
            # evaluation: batch norm cannot train on the single pixel of a small image
            encoder = _create_encoder(backbone, image_size, pretrained=False).eval()
            features = encoder.forward_features(torch.empty(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = one_line(error, max_chars=200)
        raise UserError(
            f"--backbone {backbone} does not take --image_size {image_size}: {reason}"
        ) from error
    tokens = _to_tokens(encoder, features)
    tokens.sum().backward()
    unused = frozenset(name for name, p in encoder.named_parameters() if p.grad is None)
    return int(tokens.shape[-1]), unused


def _create_encoder(backbone: str, image_size: int, pretrained: bool) -> Any:
    options: dict[str, Any] = {}
    settings = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    # networks with windows or position tables are built for one size; others refuse the option
    if settings is not None and settings.fixed_input_size:
        options["img_size"] = image_size
    try:
        return timm.create_model(backbone, pretrained=pretrained, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = one_line(error, max_chars=160)
        raise UserError(
            f"--backbone {backbone}: its pretrained weights cannot be had ({reason}); "
            "give --backbone_weights FILE or --no-pretrained"
        ) from error


def _load_encoder(encoder: Any, path: str) -> None:
    """Load weights from a file: all that the encoder has; a classifier's beside it are ignored."""
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
        raise UserError(f"--backbone_weights {path} is no weight file ({reason})") from error
    wanted = encoder.state_dict()
    for prefix in _ENCODER_PREFIXES:
        if any(name.startswith(prefix) for name in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            break
    missing = [name for name in wanted if name not in state]
    wrong = [n for n, w in wanted.items() if n in state and state[n].shape != w.shape]
    if missing or wrong:
        first = f"no {missing[0]}" if missing else f"another shape of {wrong[0]}"
        raise UserError(
            f"--backbone_weights {path} does not fit the backbone: {first} "
            f"({len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of another shape)"
        )
    encoder.load_state_dict({name: state[name] for name in wanted})


def _to_tokens(encoder: Any, features: Tensor) -> Tensor:
    """Feature map (B, C, H, W), (B, H, W, C) or tokens (B, N, D) → tokens (B, N, D)."""
    if features.ndim == 3:
        return features
    if getattr(encoder, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)
