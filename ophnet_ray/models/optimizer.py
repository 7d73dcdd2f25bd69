"""Optimiser and schedule of a fit, from the settings of the recipe."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LRScheduler, OneCycleLR

from ophnet_ray.config import LRSchedule
from ophnet_ray.recipe_config import Optimizer, RecipeConfig

_FSDP_PREFIX = "_fsdp_wrapped_module."


class ParameterSettings(NamedTuple):
    """Settings of a parameter in the optimiser."""

    lr_scale: float = 1.0
    """Factor of the learning rate."""
    weight_decay: float = 0.0


def plan_parameters(network: nn.Module, recipe: RecipeConfig) -> dict[str, ParameterSettings]:
    """Return the settings of the trained parameters, by name.

    timm decides, by the network's ``group_matcher`` and ``no_weight_decay``: layer n of L has the
    factor layer_decay^(L - n), see "BEiT" (arXiv:2106.08254); one-dimensional parameters have no
    weight decay.

    Args:
        network: The network, its layers L - 1 and below in ``image_encoder``.
        recipe: The recipe.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = param_groups_layer_decay(
        network,
        weight_decay=recipe.weight_decay,
        no_weight_decay_list=network.no_weight_decay(),  # type: ignore[operator] # a method
        layer_decay=recipe.layer_decay,
    )
    planned = {
        names[id(parameter)]: ParameterSettings(group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    return {
        name: own
        if name.startswith("image_encoder.")
        else own._replace(lr_scale=own.lr_scale * recipe.head_lr_scale)
        for name, own in planned.items()
    }


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    opt: Optimizer,
    planned: Mapping[str, ParameterSettings],
    *,
    may_fuse: bool,
) -> torch.optim.Optimizer:
    """Build the optimiser of all parameters that get a gradient, grouped by their settings.

    Args:
        parameters: Names and parameters of the module.
        lr: Learning rate.
        opt: Kind of the optimiser. On CUDA it takes torch's fused kernel.
        planned: Settings by name; parameters without any have the defaults.
        may_fuse: False where a scaler of gradients needs the kernels that are not fused.
    """
    trained = {
        name.replace(_FSDP_PREFIX, ""): parameter
        for name, parameter in parameters
        if parameter.requires_grad
    }
    groups: dict[ParameterSettings, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault(planned.get(name, ParameterSettings()), []).append(parameter)
    is_fused = may_fuse and all(each.is_cuda for each in trained.values())
    options: dict[str, Any] = {"fused": True} if is_fused else {}
    if opt == "adam" and groups.keys() == {ParameterSettings()}:
        # one group without further keys: checkpoints of earlier versions hold that
        return torch.optim.Adam(list(trained.values()), lr=lr, **options)
    values = [
        {"params": groups[own], "lr": lr * own.lr_scale, **own._asdict()}
        for own in sorted(groups, reverse=True)
    ]
    optimizer: torch.optim.Optimizer = create_optimizer_v2(values, opt, lr=lr, **options)
    return optimizer


def fit_state_to_weights(optimizer: torch.optim.Optimizer, *, may_fuse: bool) -> None:
    """Give a loaded state the memory format of the weights, and the kernel of this device.

    A checkpoint may be of another device, or of weights in another format. The fused kernel goes
    through weights and state by the order of their memory. Optimisers of other kinds stay as they
    are, and so does one without state, which has its kernel from ``build_optimizer``.

    Args:
        optimizer: Any.
        may_fuse: See ``build_optimizer``.
    """
    if not optimizer.state or not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return
    for group in optimizer.param_groups:
        is_fused = may_fuse and all(each.is_cuda for each in group["params"])
        group["fused"] = True if is_fused else None
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if name == "step":
                    state[name] = value.to(parameter.device if is_fused else "cpu")
                elif value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(value)


def build_schedule(
    optimizer: torch.optim.Optimizer, lr_schedule: LRSchedule, num_steps: int, warmup_ratio: float
) -> LRScheduler:
    """Build the course of the learning rate, per optimiser step.

    Args:
        optimizer: Its groups have the highest rate.
        lr_schedule: ``constant``; ``one_cycle``: up and down to almost 0 over all steps, see
            "Super-Convergence" (arXiv:1708.07120); ``cosine``: a linear warm-up, see "Accurate,
            Large Minibatch SGD" (arXiv:1706.02677), then half a cosine down to almost 0, see
            "SGDR" (arXiv:1608.03983).
        num_steps: Optimiser steps of the fit.
        warmup_ratio: Share of them in the warm-up of ``cosine``.
    """
    match lr_schedule:
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case "one_cycle":
            highest = [group["lr"] for group in optimizer.param_groups]
            return OneCycleLR(optimizer, highest, num_steps, cycle_momentum=False)
        case "cosine":
            num_warmup = round(warmup_ratio * num_steps)
            return LambdaLR(optimizer, lambda step: cosine_factor(step, num_steps, num_warmup))


def cosine_factor(step: int, num_steps: int, num_warmup: int) -> float:
    """Return the factor of the learning rate in a step, from 0: in (0, 1] up to the last one."""
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    # Lightning asks for the step after the last one, too
    done = (step - num_warmup) / max(num_steps - num_warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def scheduled_lr(optimizer: Any) -> float:
    """Return the learning rate of now, without the factors of groups."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group.get("lr_scale", 1.0))
