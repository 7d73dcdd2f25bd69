"""Network: a timm encoder, the fusion of its tokens with the masks, and a classifier."""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch
from timm.data import resolve_model_data_config
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.config import Config, MaskKind, ModelConfig, Pooling, WindowConfig, WindowImage
from ophnet_ray.data.windows import count_masks
from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone import (
    choose_pooling,
    create_encoder,
    group_layers,
    pool_tokens,
    probe_backbone,
    to_tokens,
)
from ophnet_ray.models.encoder_weights import WeightsUse, load_encoder_weights
from ophnet_ray.models.lora import add_lora
from ophnet_ray.recipe_config import RecipeConfig

ENCODER_PREFIX = "image_encoder."
MASK_PATCH = 16
HIDDEN_FEATURES = 512
DROPOUT = 0.1


class MaskPatches(nn.Conv2d):
    """Linear projection of the non-overlapping patches of masks, by a convolution.

    On a GPU it is a matrix product: for so few channels cuDNN has no plan at hand, and looked for
    one in each step of a compiled network, 20 ms of the CPU (H200, torch 2.11).
    """

    def __init__(self, num_masks: int, num_features: int) -> None:
        super().__init__(num_masks, num_features, kernel_size=MASK_PATCH, stride=MASK_PATCH)

    def forward(self, mask: Tensor) -> Tensor:
        """Return the projected patches (B, P, D) of masks (B, M, H, W), row by row."""
        if mask.is_cuda:
            return self.multiply(mask)
        return super().forward(mask).flatten(2).transpose(1, 2)

    def multiply(self, mask: Tensor) -> Tensor:
        """Return what ``forward`` does, as a matrix product."""
        patches = F.pixel_unshuffle(mask, MASK_PATCH).flatten(2).transpose(1, 2)
        return F.linear(patches, self.weight.flatten(1), self.bias)


class MaskFusion(nn.Module):
    """Multi-head attention from image tokens (queries) to masks (keys and values).

    Keys and values are non-overlapping patches of the masks, projected linearly, each with a
    learned position, and one learned token for "no mask here". With that token there are always at
    least two keys; the softmax over a single key would be 1 for any image. The result is added to
    the tokens with a small learned scale per channel (LayerScale, arXiv:2103.17239).
    """

    def __init__(
        self, num_features: int, image_size: int, num_heads: int, num_masks: int = 2
    ) -> None:
        super().__init__()
        self.patches = MaskPatches(num_masks, num_features)
        num_patches = (image_size // MASK_PATCH) ** 2
        self.position = nn.Parameter(torch.randn(1, num_patches, num_features) * 0.02)
        self.null_token = nn.Parameter(torch.randn(1, 1, num_features) * 0.02)
        self.norm_query = nn.LayerNorm(num_features)
        self.norm_key = nn.LayerNorm(num_features)
        self.attention = nn.MultiheadAttention(num_features, num_heads, batch_first=True)
        # small at first: raw masks help only once the encoder has learned to see
        self.scale = nn.Parameter(torch.full((num_features,), 0.01))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Add what the masks (B, M, H, W) show to the tokens (B, N, D)."""
        keys = self.patches(mask) + self.position  # (B, P, D)
        # shape[0], not len(): an exported graph must accept batches of any size
        keys = torch.cat([self.null_token.expand(keys.shape[0], -1, -1), keys], dim=1)
        keys = self.norm_key(keys)
        fused, _ = self.attention(self.norm_query(tokens), keys, keys, need_weights=False)
        out: Tensor = tokens + self.scale * fused
        return out


class SurgicalPhaseClassificationModel(nn.Module):
    """Classifier of windows of surgical video by phase.

    Args:
        num_classes: Number of phases.
        backbone: Name of a timm model.
        pretrained: Fetch timm's weights for the encoder.
        image_size: Height and width of the input, a multiple of 32.
        backbone_weights: File with weights for the encoder; takes precedence over ``pretrained``.
        mask: Kind of masks that the network expects; ``none`` leaves the fusion out.
        window_image: Picture of a window; with motion there is one mask more, and a fusion.
        pooling: Tokens behind the feature of an image; None: as suits the encoder. Checkpoints
            name theirs.
        drop_path_rate: Share of residual branches of the encoder's last layer that training drops;
            None: as timm sets it.

    Attributes:
        image_encoder: The timm network.
        backbone: Its name.
        weights_use: Tensors taken from ``backbone_weights``.
        mask: Kind of masks that the network expects; ``SurgicalPhaseModule`` extracts these.
        num_masks: Number of masks that it fuses, M.
        mean: Mean of the encoder's normalisation, for inputs in [0, 1]; float32 (3,).
        std: Standard deviation of the encoder's normalisation; float32 (3,).

    Raises:
        UserError: The backbone does not exist, or its weights cannot be fetched or do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = ModelConfig.backbone,
        pretrained: bool = ModelConfig.pretrained,
        image_size: int = WindowConfig.image_size,
        *,
        backbone_weights: str | None = None,
        mask: MaskKind = ModelConfig.mask,
        window_image: WindowImage = WindowConfig.window_image,
        pooling: Pooling | None = None,
        drop_path_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.mask: MaskKind = mask
        self.backbone = backbone
        num_features, unused = probe_backbone(backbone, image_size, pooling)
        self.image_encoder = create_encoder(
            backbone,
            image_size,
            pretrained and backbone_weights is None,
            drop_path_rate=drop_path_rate,
        )
        self.weights_use: WeightsUse | None = None
        if backbone_weights is not None:
            self.weights_use = load_encoder_weights(
                self.image_encoder, backbone_weights, backbone, image_size
            )
        self.pooling: Pooling = pooling or choose_pooling(self.image_encoder)
        for name, parameter in self.image_encoder.named_parameters():
            # forward_features leaves out some layers before timm's classifier; distributed
            # training would wait for their gradients
            parameter.requires_grad_(name not in unused)
        data = resolve_model_data_config(self.image_encoder)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(data["mean"]), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]), persistent=False)
        num_heads = next(heads for heads in (8, 4, 2, 1) if num_features % heads == 0)
        self.num_masks = num_masks = count_masks(mask, window_image)
        self.fusion = (
            MaskFusion(num_features, image_size, num_heads, num_masks) if num_masks else None
        )
        self.norm = nn.LayerNorm(num_features)
        num_pooled = 2 * num_features if self.pooling == "class_and_patches" else num_features
        self.classifier = nn.Sequential(
            nn.Linear(num_pooled, HIDDEN_FEATURES),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN_FEATURES, num_classes),
        )
        self.has_frozen_layers = False
        # windows of one case are not independent: their statistics would spoil pretrained ones
        self.freeze_batch_norm = pretrained or backbone_weights is not None
        # a module is born in training mode, and Lightning's fit() keeps the mode that it finds
        self.train()

    @classmethod
    def from_config(
        cls,
        num_classes: int,
        config: ModelConfig,
        image_size: int,
        pooling: Pooling | None = None,
        *,
        window_image: WindowImage = WindowConfig.window_image,
        drop_path_rate: float | None = None,
    ) -> Self:
        """Build the network that the settings of a run describe."""
        network = cls(
            num_classes,
            config.backbone,
            config.fetches_weights,
            image_size,
            backbone_weights=config.backbone_weights,
            mask=config.mask,
            window_image=window_image,
            pooling=pooling,
            drop_path_rate=drop_path_rate,
        )
        # the weights of init_checkpoint are loaded afterwards
        network.freeze_batch_norm |= config.init_checkpoint is not None
        return network.train()

    def sync_batch_norms(self) -> None:
        """Let batch norms that are trained take their statistics over all processes of a group.

        By timm's function: torch's would drop the activation that timm keeps in a batch norm.
        """
        if not self.freeze_batch_norm:
            self.image_encoder = convert_sync_batchnorm(self.image_encoder)

    def blank_masks(self, image: Tensor) -> Tensor:
        """Return masks without content, (B, M, H, W), for images (B, 3, H, W)."""
        return image.new_zeros((image.shape[0], self.num_masks, *image.shape[2:]))

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return timm's function from the name of a parameter to its layer, from 0.

        Layers of the encoder are those that timm counts; the last one is all behind the encoder.

        Args:
            coarse: Count the encoder's stages, not its blocks.
        """
        own = group_layers(self.image_encoder, coarse=coarse)
        layers = {ENCODER_PREFIX + name: layer for name, layer in own.items()}
        last = max(layers.values()) + 1
        return lambda name: layers.get(name, last)

    def no_weight_decay(self) -> set[str]:
        """Return the names of positions and tokens, as timm's networks do."""
        own: set[str] = getattr(self.image_encoder, "no_weight_decay", set)()
        return {"fusion.position", "fusion.null_token", *(ENCODER_PREFIX + name for name in own)}

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, 3, H, W) and masks (B, M, H, W)."""
        logits: Tensor = self.classifier(self.encode(image, mask))
        return logits

    def encode(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return pooled features (B, D) of normalised images and masks, before the classifier."""
        features = self.image_encoder.forward_features(image)
        tokens = to_tokens(self.image_encoder, features, self.pooling)
        if self.fusion is not None:
            tokens = self.fusion(tokens, mask)
        return pool_tokens(self.norm(tokens), self.pooling)

    def adapt(self, recipe: RecipeConfig) -> None:
        """Freeze the layers that a recipe names, and add its low-rank updates, see ``lora``.

        The weights of frozen layers get no gradient, and their statistics stay.

        Raises:
            UserError: The encoder has fewer stages, or no linear layer.
        """
        encoder, layers = self.image_encoder, recipe.freeze
        if layers == "encoder":
            encoder.requires_grad_(False)
        elif layers == "bn":
            for norm in filter(_is_batch_norm, encoder.modules()):
                norm.requires_grad_(False)
            self.freeze_batch_norm = True
        elif layers != "none":
            self._freeze_stages(int(layers.partition(":")[2]))
        if recipe.lora_rank is not None:
            add_lora(encoder, recipe.lora_rank, self.backbone)
        self.has_frozen_layers = layers != "none" or recipe.lora_rank is not None
        self.train(self.training)

    def use_memory_format(self, memory_format: torch.memory_format) -> None:
        """Keep the weights of convolutions in a memory format."""
        self.to(memory_format=memory_format)  # type: ignore[call-overload] # torch's stub lacks it

    def checkpoint_activations(self) -> None:
        """Let the backward pass compute activations of the encoder again (arXiv:1604.06174).

        Raises:
            UserError: timm has no such thing for the encoder, or its batch norms are trained: they
                would count each batch twice.
        """
        if not self.freeze_batch_norm and any(map(_is_batch_norm, self.image_encoder.modules())):
            raise UserError(
                f"--grad_checkpointing: the batch norms of the backbone {self.backbone} would "
                "count each batch twice; give --freeze bn, or leave it out"
            )
        try:
            self.image_encoder.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"--grad_checkpointing: timm has none for the backbone {self.backbone}; leave it "
                "out"
            ) from error

    def _freeze_stages(self, num_stages: int) -> None:
        """Freeze the stem, which timm counts as stage 0, and the first stages."""
        stages = group_layers(self.image_encoder, coarse=True)
        last = max(stages.values())
        if num_stages > last:
            raise UserError(
                f"--freeze stages:{num_stages}: the backbone {self.backbone} has {last} stages"
            )
        for name, parameter in self.image_encoder.named_parameters():
            if stages[name] <= num_stages:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation mode; frozen layers stay in the latter."""
        super().train(mode)
        if mode and (self.freeze_batch_norm or self.has_frozen_layers):
            for module in self.image_encoder.modules():
                is_frozen_norm = self.freeze_batch_norm and _is_batch_norm(module)
                if is_frozen_norm or (self.has_frozen_layers and _is_frozen(module)):
                    module.eval()
        return self


def outline_network(num_classes: int, config: Config) -> SurgicalPhaseClassificationModel:
    """Build the network of a run as its recipe trains it: names and shapes, without storage.

    Raises:
        UserError: The backbone does not exist, or the recipe or ``--grad_checkpointing`` does not
            suit it.
    """
    model = replace(config.model, pretrained=False, backbone_weights=None)
    with torch.device("meta"):
        network = SurgicalPhaseClassificationModel.from_config(
            num_classes,
            model,
            config.windows.image_size,
            window_image=config.windows.window_image,
            drop_path_rate=config.recipe.drop_path_rate,
        )
        network.adapt(config.recipe)
    if config.speed.grad_checkpointing:
        # the outline has no weights, and the batch norms of such weights are frozen
        network.freeze_batch_norm |= config.model.fetches_weights
        network.freeze_batch_norm |= config.model.backbone_weights is not None
        network.checkpoint_activations()
    return network


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - the base of all


def _is_frozen(module: nn.Module) -> bool:
    """Return True if a module has parameters, and none gets a gradient."""
    gradients = [parameter.requires_grad for parameter in module.parameters()]
    return bool(gradients) and not any(gradients)
