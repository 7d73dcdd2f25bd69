"""Low-rank updates of an encoder's linear layers (LoRA), trained in place of the layers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ophnet_ray.errors import UserError

_ORIGINAL = ".parametrizations.weight.original"


class LowRankUpdate(nn.Module):
    """Parametrisation of a weight: W + B·A, with A (r, inputs) and B (outputs, r).

    See "LoRA" (arXiv:2106.09685), with a scale of 1. B begins with zeros, and the sum with W.

    Args:
        weight: W, (outputs, inputs).
        rank: r.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        num_outputs, num_inputs = weight.shape
        self.lora_a = nn.Parameter(weight.new_empty(rank, num_inputs))
        self.lora_b = nn.Parameter(weight.new_zeros(num_outputs, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight."""
        # in full precision: a checkpoint holds the same sum
        with torch.autocast(weight.device.type, enabled=False):
            return add_update(weight, self.lora_a, self.lora_b)


def add_update(weight: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Return W + B·A."""
    return weight + lora_b @ lora_a


def add_lora(encoder: Any, rank: int, backbone: str) -> None:
    """Freeze an encoder, and train low-rank updates of the linear layers that were trained.

    Args:
        encoder: A timm network.
        rank: Rank of the updates.
        backbone: Name of the network, for errors.

    Raises:
        UserError: The encoder has no linear layer.
    """
    layers = [
        module
        for module in encoder.modules()
        # layers without gradient have no part in the features
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    if not layers:
        raise UserError(
            f"--lora_rank {rank}: the backbone {backbone} has no linear layers; LoRA is for "
            "transformers"
        )
    encoder.requires_grad_(False)
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank)
        # unsafe: without a trial, which tensors without storage (device meta) do not bear
        parametrize.register_parametrization(layer, "weight", update, unsafe=True)


def is_adapted(name: str) -> bool:
    """Return True for the name of a weight that has an update."""
    return name.endswith(_ORIGINAL)


def merge_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a network with its updates added, by the names of a plain network."""
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, is_original, _ = name.partition(_ORIGINAL)
        if is_original:
            update = f"{layer}.parametrizations.weight.0.lora_"
            factors = state[f"{update}a"], state[f"{update}b"]
            merged[f"{layer}.weight"] = add_update(value, *factors).detach()
        elif ".parametrizations.weight." not in name:
            merged[name] = value
    return merged
