"""Random numbers of windows on the training device, hashed from the draws of ``TrainingSampler``.

They are functions of (seed, epoch, segment), as the draws are, not of a generator's state.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NUM_GLARES = 4
_ADDED, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Constants of splitmix64, as the signed integers that torch has."""
_UNIFORM_BITS, _NORMAL_BITS = 24, 21
_NORMALS_FROM = 2**32
"""Counter of the first normal number, beyond those of all uniform ones."""


class WindowDraws(NamedTuple):
    """Uniform numbers of each window in [0, 1), float32 (B, n), by ingredient."""

    crop: Tensor
    rotate: Tensor
    flip: Tensor
    color: Tensor
    blur: Tensor
    noise: Tensor
    glare: Tensor
    erase: Tensor
    mix: Tensor


_SIZES = {
    "crop": 4,
    "rotate": 1,
    "flip": 2,
    "color": 5,
    "blur": 2,
    "noise": 2,
    "glare": 1 + 5 * NUM_GLARES,
    "erase": 5,
    "mix": 6,
}


def draw_numbers(draws: Tensor) -> WindowDraws:
    """Return the uniform numbers of each window.

    Args:
        draws: float32 (B, n); the hash takes all of their bits.
    """
    counters = torch.arange(sum(_SIZES.values()), device=draws.device)
    bits = _hash(_seed_windows(draws), counters) >> (64 - _UNIFORM_BITS)
    values = bits.bitwise_and_(2**_UNIFORM_BITS - 1).float() / 2**_UNIFORM_BITS
    return WindowDraws(*values.split(list(_SIZES.values()), dim=1))


def draw_normals(draws: Tensor, height: int, width: int) -> Tensor:
    """Return independent normal numbers, float32 (B, 3, H, W), with mean 0 and deviation 1.

    Args:
        draws: As in ``draw_numbers``.
        height: H.
        width: W.
    """
    counters = torch.arange(height * width, device=draws.device) + _NORMALS_FROM
    hashes = _hash(_seed_windows(draws), counters)
    channels = []
    for channel in range(3):  # a hash has bits for all three
        bits = (hashes >> (_NORMAL_BITS * channel)).bitwise_and_(2**_NORMAL_BITS - 1)
        # in (-1, 1), symmetric: the inverse has no infinite values there
        channels.append((bits.float() + 0.5) / 2 ** (_NORMAL_BITS - 1) - 1)
    normals = torch.stack(channels, dim=1).erfinv_().mul_(math.sqrt(2))
    return normals.view(-1, 3, height, width)


def _seed_windows(draws: Tensor) -> Tensor:
    """Return one number per window, int64 (B, 1)."""
    seeds = torch.zeros_like(draws[:, :1], dtype=torch.int64)
    for column in draws.contiguous().view(torch.int32).long().split(1, dim=1):
        seeds = _mix(seeds ^ column)
    return seeds


def _hash(seeds: Tensor, counters: Tensor) -> Tensor:
    """Return uniform 64-bit numbers, int64 (B, n), of seeds (B, 1) and counters (n,)."""
    return _mix(seeds ^ _mix(counters))


def _mix(values: Tensor) -> Tensor:
    """Apply splitmix64 (Steele et al., OOPSLA 2014), as ``hashing.hash_ids`` does; a bijection."""
    mixed = values + _ADDED
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        # torch shifts the sign in; the mask takes it out
        mixed ^= (mixed >> shift).bitwise_and_(2 ** (64 - shift) - 1)
        mixed *= factor
    return mixed
