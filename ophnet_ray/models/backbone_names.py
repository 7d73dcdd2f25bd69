"""Facts of timm models by their names alone: size of the patches, licence of the weights."""

import math
import re
from fnmatch import fnmatchcase

from ophnet_ray.errors import UserError

IMAGE_STEP = 32
"""Image sizes are multiples of it, see ``WindowConfig``."""
UNKNOWN = "unknown"
_RESEARCH_ONLY = ("apple-amlr",)
"""Licences that allow research alone and do not say so in their names."""
_NONCOMMERCIAL = {
    "cc-by-nc-4.0": (
        "convnextv2_[!s]*", "hiera_*_224*", "regnety_*.swag_*", "regnety_1280", "resne*.fb_*",
        "ig_resnext*", "ssl_resne*", "swsl_resne*",
        "resnext101_32x4d", "resnext101_32x16d", "resnext101_32x32d", "vit_*.mae",
        "vit_*.metaclip*", "vit_*_ijepa", "vit_base_patch16_clip_quickgelu_224",
        "vit_giant_patch16_gap_224", "vit_gigantic_patch14_clip_378",
        "vit_gigantic_patch14_clip_quickgelu_224", "vit_huge_patch14_gap_224",
        "vit_huge_patch16_gap_448",
    ),
    "fair-noncommercial-research-license": ("*.eupe_lvd1689m", "vit_tiny_patch16_dinov3_qkvb"),
    "apple-amlr": ("*.apple_mclip*", "fastvit_mci*", "vit_base_mci_224"),
}  # fmt: skip
"""Names of timm 1.0.31 by licence; a name without a tag stands for its default weights. A test
compares them with timm, which takes seconds to load."""


def find_noncommercial(backbone: str) -> str | None:
    """Return the licence of a timm model's weights if it forbids commercial use; loads no timm."""
    for licence, patterns in _NONCOMMERCIAL.items():
        if any(fnmatchcase(backbone, pattern) for pattern in patterns):
            return licence
    return None


def read_licence(backbone: str) -> str:
    """Return the licence of a timm model's pretrained weights, in timm's words; loads timm."""
    import timm

    settings = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    licence = settings.license if settings is not None else None
    return licence or UNKNOWN


def forbids_commercial_use(licence: str) -> bool:
    """Return True if a licence forbids commercial use by its name, or allows research alone."""
    parts = licence.lower().split("-")
    return "nc" in parts or "noncommercial" in parts or licence in _RESEARCH_ONLY


def check_licence(flag: str, backbone: str, licence: str | None, is_allowed: bool) -> None:
    """Refuse weights whose licence forbids commercial use, unless that is allowed.

    Raises:
        UserError: Naming the licence and the cure.
    """
    if licence is not None and forbids_commercial_use(licence) and not is_allowed:
        raise UserError(
            f"{flag} {backbone}: the licence of its pretrained weights, {licence}, forbids "
            "commercial use; give --allow_noncommercial if yours is none, or another model"
        )


def check_commercial_use(flag: str, backbone: str, is_allowed: bool) -> None:
    """Refuse a timm model whose weights forbid commercial use, by its name, unless that is allowed.

    Raises:
        UserError: Naming the licence and the cure.
    """
    check_licence(flag, backbone, find_noncommercial(backbone), is_allowed)


def describe_weights(flag: str, backbone: str, weights: str | None, is_allowed: bool) -> str:
    """Return the source of the first weights of a timm model, and their licence; loads timm.

    Args:
        flag: Flag that names the model.
        backbone: Name of the model.
        weights: File of its weights; None for timm's own.
        is_allowed: Accept weights whose licence forbids commercial use.

    Raises:
        UserError: A timm newer than ``find_noncommercial`` says that it forbids commercial use.
    """
    if weights is not None:
        return f"{weights} weights, {describe_licence(UNKNOWN)}"
    licence = read_licence(backbone)
    # a run that was begun before names were checked goes on
    if find_noncommercial(backbone) is None:
        check_licence(flag, backbone, licence, is_allowed)
    return f"pretrained weights, {describe_licence(licence)}"


def describe_licence(licence: str) -> str:
    """Return a licence for people, with a word on commercial use where there is none."""
    use = " (no commercial use)" if forbids_commercial_use(licence) else ""
    return f"licence {licence}{use}"


def find_uncovered_pixels(flag: str, backbone: str, image_size: int) -> str | None:
    """Return a warning if patches do not cover the image; None if they do, or timm's name has none.

    A vision transformer leaves out the pixels beyond the last whole patch, and says nothing.
    """
    found = re.search(r"_patch(\d+)", backbone)
    size = max(int(found[1]), 1) if found else 1
    if image_size % size == 0:
        return None
    step = math.lcm(size, IMAGE_STEP)
    return (
        f"--image_size {image_size}: {image_size % size} rows and columns lie beyond the last "
        f"patch of {size} pixels ({flag} {backbone}); give {step} or {2 * step}"
    )
