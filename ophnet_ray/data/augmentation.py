"""Random changes of training images, on the training device: each window by its own numbers."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data.preprocessing import shift_images, to_unit
from ophnet_ray.data.window_draws import NUM_GLARES, WindowDraws, draw_normals, draw_numbers

LARGEST_RATIO = 4 / 3
"""Largest ratio of width to height of a random crop, and of height to width, as in timm."""
BLUR_SIGMAS = (0.1, 2.0)
"""Standard deviations of the blur, pixels per ``BLUR_SIZE`` (SimCLR, arXiv:2002.05709)."""
BLUR_SIZE = 224
NOISE_DEVIATION = 10 / 255
"""Largest standard deviation of the noise."""
GLARE_RADII = (0.01, 0.08)
"""Radii of a reflection, as shares of the image's size."""
GLARE_GAIN = 3.0
"""Height of a reflection's bell; what is higher than 1 is its white core."""
ERASED_AREAS = (0.02, 1 / 3)
ERASED_RATIOS = (0.3, 3.3)
"""Areas and ratios of height to width of an erased rectangle (arXiv:1708.04896)."""
_LUMA = (0.213, 0.715, 0.072)
_HUE_SINE = ((-0.213, -0.715, 0.928), (0.143, 0.140, -0.283), (-0.787, 0.715, 0.072))
"""Grey of a colour, and what the sine of a turned hue adds to it (W3C, Filter Effects)."""
_NOTHING = AugmentationConfig()


def augment_images(
    pixels: Tensor,
    draws: Tensor,
    random_shift: float,
    color_jitter: float,
    augmentation: AugmentationConfig = _NOTHING,
) -> Tensor:
    """Move, recolour and disturb pictures of windows, each by its own random numbers.

    Nothing here waits for the device. Windows are not mixed, see ``mixing.mix_images``.

    Args:
        pixels: uint8 (B, C, H, W): RGB, and perhaps motion, which moves and is erased with them.
        draws: (B, 5) in [-1, 1]: down, right, gain of red, green and blue; other numbers are
            hashes of these.
        random_shift: Largest shift, as a share of the size.
        color_jitter: Largest change of a channel's gain.
        augmentation: Further changes.

    Returns:
        float32 (B, C, H, W) in [0, 1], channels last in memory.
    """
    shift, gain = draws[:, :2] * random_shift, 1 + color_jitter * draws[:, 2:5]
    if not augmentation.needs_numbers:
        # nothing would use the numbers, whose hashes are a hundred operations on the device
        return _shift_and_scale(pixels, shift, gain)
    numbers = draw_numbers(draws)
    moved = _move(pixels, shift, augmentation, numbers)
    values, motion = moved[:, :3], moved[:, 3:]
    if augmentation.recolors:
        values = _recolor(values, gain, augmentation, numbers.color)
    else:
        values = values * gain[:, :, None, None]
    values = values.clamp(0, 1)
    if augmentation.blur:
        values = _blur(values, numbers.blur, augmentation.blur)
    if augmentation.glare:
        values = _add_glare(values, numbers.glare, augmentation.glare)
    if augmentation.noise:
        values = _add_noise(values, draws, numbers.noise, augmentation.noise)
    if motion.shape[1]:
        values = torch.cat([values, motion], dim=1)
    if augmentation.reprob:
        values = _erase(values, numbers.erase, augmentation.reprob)
    return values.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _shift_and_scale(pixels: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    """Shift images by shares of their size, (B, 2), and scale their channels by gains, (B, 3)."""
    moved = to_unit(_shift(pixels, shift))
    values, motion = moved[:, :3], moved[:, 3:]
    values = (values * gain[:, :, None, None]).clamp(0, 1)
    if motion.shape[1]:
        values = torch.cat([values, motion], dim=1)
    return values.contiguous(memory_format=torch.channels_last)


def _shift(pixels: Tensor, shift: Tensor, is_flipped: Tensor | None = None) -> Tensor:
    """Move images by whole pixels, see ``preprocessing.shift_images``."""
    height, width = pixels.shape[-2:]
    # no tensor of the sizes: its copy to the device would wait for it
    offsets = torch.stack([shift[:, 0] * height, shift[:, 1] * width], dim=1).round().long()
    return shift_images(pixels, offsets, is_flipped)


def _move(pixels: Tensor, shift: Tensor, own: AugmentationConfig, numbers: WindowDraws) -> Tensor:
    """Shift, mirror, crop and rotate images; what lies beyond the edge is its mirror image.

    Without crops and rotations, whole pixels move.

    Args:
        pixels: uint8 (B, C, H, W).
        shift: Down and right, as shares of the size, (B, 2).
        own: Settings.
        numbers: Of the windows.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    is_flipped = torch.stack(
        [numbers.flip[:, 0] < own.vflip, numbers.flip[:, 1] < own.hflip], dim=1
    )
    if own.warps:
        height, width = pixels.shape[-2:]
        grid = _sampling_grid((height, width), shift, is_flipped, own, numbers)
        return F.grid_sample(to_unit(pixels), grid, padding_mode="reflection", align_corners=False)
    return to_unit(_shift(pixels, shift, is_flipped))


def _sampling_grid(
    size: tuple[int, int],
    shift: Tensor,
    is_flipped: Tensor,
    own: AugmentationConfig,
    numbers: WindowDraws,
) -> Tensor:
    """Return the positions in the input of each pixel, float32 (B, H, W, 2), for ``grid_sample``.

    The crop is torchvision's ``RandomResizedCrop``, with ratios for which it lies in the image.
    """
    height, width = size
    device = shift.device
    area = own.scale + (1 - own.scale) * numbers.crop[:, 0]
    log_ratio = (-area.log()).clamp(max=math.log(LARGEST_RATIO)) * (2 * numbers.crop[:, 1] - 1)
    shares = torch.stack([area.log() - log_ratio, area.log() + log_ratio], dim=1).mul(0.5).exp()
    center = (1 - shares) * (2 * numbers.crop[:, 2:] - 1) - 2 * shift
    rows, columns = (shares * (1 - 2 * is_flipped.float()))[:, :, None].unbind(1)
    rows = rows * ((2 * torch.arange(height, device=device) + 1) / height - 1)
    columns = columns * ((2 * torch.arange(width, device=device) + 1) / width - 1)
    rows, columns = rows[:, :, None], columns[:, None, :]
    angle = math.radians(own.rotate) * (2 * numbers.rotate[:, :, None] - 1)
    down = center[:, 0, None, None] + angle.cos() * rows + angle.sin() * columns * (width / height)
    right = center[:, 1, None, None] + angle.cos() * columns - angle.sin() * rows * (height / width)
    return torch.stack([right, down], dim=-1)


def _recolor(values: Tensor, gain: Tensor, own: AugmentationConfig, numbers: Tensor) -> Tensor:
    """Apply gains, then white balance and brightness, hue, saturation and contrast, as one matrix.

    Values are not clamped in between. Hue and saturation are those of the filters
    ``hue-rotate`` and ``saturate`` (W3C, Filter Effects); contrast is about the mean grey of the
    image.

    Args:
        values: (B, 3, H, W).
        gain: Of the channels, (B, 3).
        own: Settings.
        numbers: In [0, 1), (B, 5).
    """
    brightness, contrast, saturation, turn, balance = (2 * numbers - 1).unbind(1)
    warmth = own.white_balance * balance
    gain = gain * torch.stack([1 + warmth, torch.ones_like(warmth), 1 - warmth], dim=1)
    gain = gain * (1 + own.brightness * brightness)[:, None]
    luma, sine, identity = _color_matrices(values.device)
    angle = (2 * math.pi * own.hue * turn)[:, None, None]
    kept = (1 + own.saturation * saturation)[:, None, None]
    matrix = luma + kept * (angle.cos() * (identity - luma) + angle.sin() * sine)
    matrix = matrix * gain[:, None, :]
    mean = (matrix * values.mean(dim=(2, 3))[:, None, :]).sum(dim=2)
    factor = (1 + own.contrast * contrast)[:, None]
    offset = (1 - factor) * (luma * mean[:, None, :]).sum(dim=2)
    matrix = matrix * factor[:, :, None]
    # three products per channel, not a matrix product, which a GPU may round to 10 bits
    changed = offset[:, :, None, None]
    for channel, plane in enumerate(values.unbind(1)):
        changed = changed + matrix[:, :, channel, None, None] * plane[:, None]
    return changed


@cache
def _color_matrices(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return constants of ``_recolor``, (3, 3), copied to the device once."""
    luma = torch.tensor([_LUMA] * 3, device=device)
    return luma, torch.tensor(_HUE_SINE, device=device), torch.eye(3, device=device)


def _blur(values: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Blur a share of the images with a Gaussian of random width."""
    batch, _, height, width = values.shape
    least, most = (sigma * height / BLUR_SIZE for sigma in BLUR_SIGMAS)
    radius = min(math.ceil(3 * most), height - 1, width - 1)
    sigma = least + (most - least) * numbers[:, 1:]
    taps = torch.arange(-radius, radius + 1, device=values.device)
    weights = (-((taps / sigma) ** 2) / 2).softmax(dim=1).repeat_interleave(3, dim=0)
    # one group per image and channel
    padded = F.pad(values, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(padded, weights[:, None, :, None], groups=3 * batch)
    blurred = F.conv2d(rows, weights[:, None, None, :], groups=3 * batch)
    return _replace(values, blurred.view(values.shape), numbers[:, 0] < share)


def _add_glare(values: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Add white reflections to a share of the images: a bell each, whose top is cut off."""
    height, width = values.shape[-2:]
    down, right, size, ratio, gain = numbers[:, 1:].view(-1, 5, NUM_GLARES, 1).unbind(1)
    least, most = GLARE_RADII
    radius = least + (most - least) * size**2  # small ones are more frequent
    stretch = 2 ** (ratio - 0.5)  # height and width differ by a factor of 2 at most
    rows = (torch.arange(height, device=values.device) / height - down) / (radius * stretch)
    columns = (torch.arange(width, device=values.device) / width - right) / (radius / stretch)
    bells = (-(rows**2))[:, :, :, None].exp() * (-(columns**2))[:, :, None, :].exp()
    light = (GLARE_GAIN * gain[..., None] * bells).sum(dim=1, keepdim=True).clamp(max=1)
    return _replace(values, values + (1 - values) * light, numbers[:, 0] < share)


def _add_noise(values: Tensor, draws: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Add normal noise of random strength to a share of the images."""
    deviation = NOISE_DEVIATION * numbers[:, 1, None, None, None]
    noisy = values + deviation * draw_normals(draws, *values.shape[-2:])
    return _replace(values, noisy, numbers[:, 0] < share)


def _erase(values: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Fill a rectangle in a share of the images with the mean of each channel."""
    height, width = values.shape[-2:]
    least, most = ERASED_AREAS
    area = least + (most - least) * numbers[:, 1]
    flat, tall = (math.log(ratio) for ratio in ERASED_RATIOS)
    ratio = (flat + (tall - flat) * numbers[:, 2]).exp()
    is_row = _is_in_interval(height, numbers[:, 3], (area * ratio).sqrt())
    is_column = _is_in_interval(width, numbers[:, 4], (area / ratio).sqrt())
    is_erased = is_row[:, None, :, None] & is_column[:, None, None, :]
    erased = torch.where(is_erased, values.mean(dim=(2, 3), keepdim=True), values)
    return _replace(values, erased, numbers[:, 0] < share)


def _is_in_interval(size: int, position: Tensor, length: Tensor) -> Tensor:
    """Return True for the pixels of an interval that lies inside the image, bool (B, size).

    Args:
        size: Pixels.
        position: In [0, 1): 0 at the start, 1 at the end, (B,).
        length: As a share of the size; 1 at most counts, (B,).
    """
    length = length.clamp(max=1)
    start = (position * (1 - length))[:, None]
    centers = (torch.arange(size, device=position.device) + 0.5) / size
    return (centers >= start) & (centers < start + length[:, None])


def _replace(values: Tensor, changed: Tensor, is_chosen: Tensor) -> Tensor:
    """Return the changed images of the chosen windows, (B,), and the others to the bit."""
    return torch.where(is_chosen[:, None, None, None], changed, values)
