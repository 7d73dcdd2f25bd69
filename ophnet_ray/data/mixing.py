"""Mixtures of windows of a batch, images and labels, on the training device: mixup and cutmix."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data.window_draws import draw_numbers

NUM_QUANTILES = 4096
"""Values, of equal probability, that a share of the beta distribution takes."""


class Mixed(NamedTuple):
    """Mixed images, and of each the other window and the window's own share.

    ``values``: float32 (B, C, H, W). ``others``: int64 (B,), positions in the batch.
    ``own_share``: float32 (B,) in [0, 1]; 1 for a window that is not mixed.
    """

    values: Tensor
    others: Tensor
    own_share: Tensor


def mix_images(values: Tensor, draws: Tensor, augmentation: AugmentationConfig) -> Mixed:
    """Mix a share of the images with others of the batch; nothing waits for the device.

    Of mixup (arXiv:1710.09412) an image is the weighted mean of both; of cutmix (arXiv:1905.04899)
    it is its own, with a rectangle of the other one. Each window has a weight of its own. The other
    window is the next one in the order of a random number, so that each is the other of one. It is
    of the same worker's batch: with another number of workers, or another batch size, windows meet
    others.

    Args:
        values: float32 (B, C, H, W).
        draws: See ``augmentation.augment_images``.
        augmentation: Settings.
    """
    chosen, kind, order, share, down, right = draw_numbers(draws).mix.unbind(1)
    ring = order.argsort()
    others = ring.roll(-1)[ring.argsort()]
    is_mixed = chosen < augmentation.mixup_prob
    cutmix_share = 0.5 if augmentation.mixup and augmentation.cutmix else bool(augmentation.cutmix)
    is_cut = is_mixed & (kind < cutmix_share)
    whole = torch.ones_like(share)  # a number of the host would be copied, which waits
    blended = torch.where(is_mixed & ~is_cut, _shares_of_beta(share, augmentation.mixup), whole)
    kept = torch.where(is_cut, _shares_of_beta(share, augmentation.cutmix), whole)
    side = (1 - kept).sqrt()
    height, width = values.shape[-2:]
    rows, columns = _interval(height, down, side), _interval(width, right, side)
    own = torch.where(
        is_cut[:, None, None], 1 - rows[:, :, None] * columns[:, None, :], blended[:, None, None]
    )
    mixed = values[others].lerp(values, own[:, None])
    own_share = torch.where(is_cut, 1 - rows.mean(dim=1) * columns.mean(dim=1), blended)
    return Mixed(mixed.contiguous(memory_format=torch.channels_last), others, own_share)


def _interval(size: int, center: Tensor, length: Tensor) -> Tensor:
    """Return 1 for the pixels of an interval, which the edges of the image may cut, else 0.

    Args:
        size: Pixels.
        center: In [0, 1), (B,).
        length: As a share of the size, (B,).
    """
    pixels = (torch.arange(size, device=center.device) + 0.5) / size
    return ((pixels - center[:, None]).abs() < length[:, None] / 2).float()


def _shares_of_beta(numbers: Tensor, alpha: float) -> Tensor:
    """Convert uniform numbers in [0, 1) to shares that are distributed as Beta(alpha, alpha).

    With an alpha of 0 they are 1.
    """
    if not alpha:
        return torch.ones_like(numbers)
    return _beta_quantiles(alpha, numbers.device)[(numbers * NUM_QUANTILES).long()]


@cache
def _beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """Return quantiles of Beta(alpha, alpha), float32, copied to the device once."""
    # loads for a quarter of a second, which only trainings that mix need
    from scipy.special import betaincinv

    probabilities = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    return torch.from_numpy(betaincinv(alpha, alpha, probabilities)).float().to(device)
