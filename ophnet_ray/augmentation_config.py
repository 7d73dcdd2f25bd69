"""Flags of the augmentation: random changes of training images, and mixtures of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ophnet_ray.settings import Rule, setting

_SHARES = ("hflip", "vflip", "blur", "noise", "glare", "reprob", "mixup_prob")
_CHANGES = ("brightness", "contrast", "saturation", "white_balance")


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of training images, besides --random_shift and --color_jitter."""

    scale: float = setting(1.0, is_late=True)
    """Smallest share of an image's area that a random resized crop shows (arXiv:1409.4842)."""
    rotate: float = setting(0.0, is_late=True)
    """Largest rotation, degrees."""
    hflip: float = setting(0.0, is_late=True)
    """Share of the images that are mirrored left to right; 0 where phases depend on the side."""
    vflip: float = setting(0.0, is_late=True)
    """Share of the images that are mirrored top to bottom."""
    brightness: float = setting(0.0, is_late=True)
    """Largest change of the brightness, as a share of it."""
    contrast: float = setting(0.0, is_late=True)
    """Largest change of the contrast, as a share of it."""
    saturation: float = setting(0.0, is_late=True)
    """Largest change of the saturation, as a share of it."""
    hue: float = setting(0.0, is_late=True)
    """Largest turn of the hue, as a share of the colour circle, at most 0.5."""
    white_balance: float = setting(0.0, is_late=True)
    """Largest change of the colour temperature: gain of red, and loss of blue, or the reverse."""
    blur: float = setting(0.0, is_late=True)
    """Share of the images that are blurred, by up to 2 pixels per 224 (arXiv:2002.05709)."""
    noise: float = setting(0.0, is_late=True)
    """Share of the images with noise of a camera, of up to 10 of 255 grey levels."""
    glare: float = setting(0.0, is_late=True)
    """Share of the images with bright reflections of the microscope's lamp."""
    reprob: float = setting(0.0, is_late=True)
    """Share of the images of which a random rectangle is erased (arXiv:1708.04896)."""
    mixup: float = setting(0.0, is_late=True)
    """Mix images and labels of two windows; alpha of the mixture's beta distribution
    (arXiv:1710.09412)."""
    cutmix: float = setting(0.0, is_late=True)
    """Paste a rectangle of another window, with its share of the label; alpha likewise
    (arXiv:1905.04899). With --mixup, too, each takes half of the mixed images."""
    mixup_prob: float = setting(1.0, is_late=True)
    """Share of the images that --mixup and --cutmix mix."""

    @property
    def recolors(self) -> bool:
        """True if colours change by more than ``--color_jitter``."""
        return any(getattr(self, name) for name in (*_CHANGES, "hue"))

    @property
    def warps(self) -> bool:
        """True if images are sampled between their pixels."""
        return self.scale < 1 or self.rotate > 0

    @property
    def mirrors(self) -> bool:
        """True if images may be mirrored."""
        return self.hflip > 0 or self.vflip > 0

    @property
    def needs_numbers(self) -> bool:
        """True if a change needs other numbers than those of shift and colour jitter."""
        shares = (self.blur, self.noise, self.glare, self.reprob)
        return self.warps or self.recolors or self.mirrors or any(shares)

    @property
    def mixes(self) -> bool:
        """True if windows are mixed."""
        return bool(self.mixup_prob and (self.mixup or self.cutmix))

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        scale, rotate, hue = self.scale, self.rotate, self.hue
        yield 0 < scale <= 1, f"--scale {scale}: must be more than 0, and at most 1"
        yield 0 <= rotate <= 180, f"--rotate {rotate}: must be 0 to 180"
        yield 0 <= hue <= 0.5, f"--hue {hue}: must be 0 to 0.5"
        for name in _SHARES:
            value = getattr(self, name)
            yield 0 <= value <= 1, f"--{name} {value}: must be 0 to 1"
        for name in _CHANGES:
            value = getattr(self, name)
            yield 0 <= value < 1, f"--{name} {value}: must be 0 or more, and less than 1"
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            yield 0 <= value < math.inf, f"--{name} {value}: must be 0 or more, and finite"
