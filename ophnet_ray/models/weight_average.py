"""Exponential moving average of the weights of a network, over the steps of its training."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class _Average(ModelEmaV3):
    """timm's average of a network, which lists the tensors of both only once.

    timm lists them for each step, which takes a tenth of the step of a CAFormer-S18 on an H200.
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._weights = _Tensors([], [], [], [])

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Add the weights of the network; it is the same one each time."""
        if not self._weights.averages:
            self._weights = _pair_tensors(self.module, model)
        own = self._weights
        self._foreach_lerp_(own.averages, own.values, weight=1.0 - decay)
        for counter, count in zip(own.counters, own.counts, strict=True):
            counter.copy_(count)


class _Tensors(NamedTuple):
    """Floating-point tensors of an average and of its network, and the others of both."""

    averages: list[Tensor]
    values: list[Tensor]
    counters: list[Tensor]
    counts: list[Tensor]


def _pair_tensors(average: nn.Module, network: nn.Module) -> _Tensors:
    """List the tensors of both networks themselves, which stay where they are during a fit."""
    found = _Tensors([], [], [], [])
    both = (each.state_dict(keep_vars=True).values() for each in (average, network))
    for own, value in zip(*both, strict=True):
        if own.is_floating_point():
            found.averages.append(own)
            found.values.append(value)
        else:
            found.counters.append(own)
            found.counts.append(value)
    return found


class WeightAverage:
    """Moving average of all weights and batch-norm statistics, kept by timm's ``ModelEmaV3``.

    After step n, from 1, it is d·average + (1 - d)·weights, with d = min(decay, 1 - n^(-2/3)): the
    average of about the last n^(2/3) steps, until ``decay`` is reached. See "Mean teachers are
    better role models" (arXiv:1703.01780), and ``use_warmup`` of timm.

    No module of the fit holds it: its tensors have no gradients and no part in the optimiser.

    Args:
        network: The network; the average begins with its weights.
        decay: In [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._average: Any = _Average(network, decay=decay, use_warmup=True)
        self._average.requires_grad_(False)
        self.num_updates = 0

    def update(self, network: nn.Module) -> None:
        """Add the weights after a step."""
        self.num_updates += 1
        # the step is a number of this process: nothing is read back from the device
        self._average.update(network, step=self.num_updates)

    @torch.no_grad()
    def swap(self, network: nn.Module) -> None:
        """Exchange the average with the weights of the network, in place."""
        averaged = self._average.module.state_dict().values()
        for average, weight in zip(averaged, network.state_dict().values(), strict=True):
            own = weight.clone()
            weight.copy_(average)
            average.copy_(own)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the averaged buffers by their names in the network."""
        yield from self._average.module.named_buffers()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by their names in the network."""
        state: dict[str, Tensor] = self._average.module.state_dict()
        return state

    def load(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from the averages of ``state_dict`` and the number of steps in them."""
        self._average.module.load_state_dict(state)
        self.num_updates = num_updates
