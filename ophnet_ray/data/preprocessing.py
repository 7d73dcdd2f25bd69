"""Stored pictures of windows → input of the network. Runs on the training device."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.config import MaskKind


def prepare_batch(
    values: Tensor, mean: Tensor, std: Tensor, mask: MaskKind
) -> tuple[Tensor, Tensor]:
    """Normalise pictures of windows and take their masks.

    Args:
        values: (B, 3, H, W) RGB in [0, 1], see ``to_unit``; a fourth channel is the motion, which
            becomes the last mask.
        mean: Mean of the backbone's normalisation, (3,), for values in [0, 1].
        std: Its standard deviation, (3,).
        mask: Kind of masks.

    Returns:
        ``image`` float32 (B, 3, H, W), normalised, and ``mask`` float32 (B, M, H, W) in [0, 1];
        zeros (B, 2, H, W) without masks.
    """
    colors, motion = values[:, :3], values[:, 3:]
    image = (colors - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    if not motion.shape[1]:
        return image, extract_masks(colors, mask)
    return image, motion if mask == "none" else torch.cat([extract_masks(colors, mask), motion], 1)


def to_unit(pixels: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [0, 1]."""
    return pixels.float() / 255.0


def extract_masks(values: Tensor, mask: MaskKind) -> Tensor:
    """Compute two masks of each image: one for the pupil, one for the instruments.

    Args:
        values: (B, 3, H, W) RGB in [0, 1], before normalisation.
        mask: ``rg``: the red channel (the pupil's red reflex) and the green one (instruments).
            ``chroma``: red's share of the colour, R/(R+G+B); and bright without colour,
            (1 - saturation) * value of HSV, as steel is. ``none``: zeros.

    Returns:
        (B, 2, H, W) in [0, 1].
    """
    if mask == "rg":
        return values[:, :2]
    if mask == "none":
        return torch.zeros_like(values[:, :2])
    red_share = values[:, 0] / values.sum(dim=1).clamp_min(1e-6)
    # (1 - saturation) * value = min(R, G, B)
    return torch.stack([red_share, values.amin(dim=1)], dim=1)


def shift_images(pixels: Tensor, offsets: Tensor, is_flipped: Tensor | None = None) -> Tensor:
    """Move each image by its own offset, then mirror it or not; the edge is mirrored, too.

    Args:
        pixels: (B, 3, H, W) of any type.
        offsets: int (B, 2), rows down and columns right, each less than H or W.
        is_flipped: bool (B, 2): top to bottom, left to right; None for no image.

    Returns:
        (B, 3, H, W) of the same type.
    """
    batch, _, height, width = pixels.shape
    rows = _mirror(torch.arange(height, device=pixels.device) - offsets[:, :1], height)
    columns = _mirror(torch.arange(width, device=pixels.device) - offsets[:, 1:], width)
    if is_flipped is not None:
        rows = torch.where(is_flipped[:, :1], rows.flip(1), rows)
        columns = torch.where(is_flipped[:, 1:], columns.flip(1), columns)
    index = torch.arange(batch, device=pixels.device).view(-1, 1, 1)
    # advanced indices around a slice put the channel last
    return pixels[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Convert labels, int64 (B,), to one-hot vectors, float32 (B, K)."""
    return F.one_hot(labels, num_classes).float()


def _mirror(positions: Tensor, size: int) -> Tensor:
    """Reflect positions in (-size, 2 * size) into [0, size)."""
    folded = torch.where(positions < 0, -positions - 1, positions)
    return torch.where(folded >= size, 2 * size - 1 - folded, folded)
