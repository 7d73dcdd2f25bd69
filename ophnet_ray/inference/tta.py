"""Test-time augmentation: several views of each window, whose probabilities are averaged.

``flips`` shows each window mirrored left to right, too. ``windows`` shows the windows that lie one
block (``--stride`` frames) earlier and later, too, of a causal prediction the earlier one alone.
All views come from one pass through the video. See "ImageNet Classification with Deep Convolutional
Neural Networks" (Krizhevsky et al., 2012), section 4.1.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.errors import UserError

Tta = Literal["flips", "windows"]
_KINDS: tuple[Tta, ...] = get_args(Tta)
_SIDE = re.compile(r"(?<![^\W_])(left|right|nasal|temporal|nasally|temporally)(?![^\W_])", re.I)
"""A word for a side in the name of a phase."""


def parse_tta(text: str) -> tuple[Tta, ...]:
    """Read ``--tta``: names of kinds, with commas between them; empty: none.

    Raises:
        UserError: A name is no kind.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in _KINDS]
    if unknown:
        raise UserError(f"--tta {text}: {unknown[0]!r} is none of {', '.join(_KINDS)}")
    return tuple(kind for kind in _KINDS if kind in names)


def check_flips(tta: Sequence[Tta], checkpoint: str) -> str:
    """Refuse mirrored images where phases name a side.

    Args:
        tta: Kinds.
        checkpoint: Path of a checkpoint, or of ``ensemble.yaml``.

    Returns:
        A warning if a model was trained without mirrored images; else an empty text.

    Raises:
        UserError: A phase names a side, or a checkpoint cannot be read.
    """
    if "flips" not in tta:
        return ""
    # they load torch, and the codec
    from ophnet_ray.inference.ensemble import read_models
    from ophnet_ray.models.checkpoint_file import read_payload

    payloads = [read_payload(member.file) for member in read_models(checkpoint).members]
    sided = [phase for phase in payloads[0].phases if _SIDE.search(phase)]
    if sided:
        raise UserError(
            f"--tta flips: phase {sided[0]!r} names a side, which a mirrored image shows wrong; "
            "leave flips out"
        )
    if all(payload.settings.augmentation.hflip for payload in payloads):
        return ""
    return (
        "--tta flips: the model was trained without mirrored images (--hflip 0); where phases "
        "depend on the side, flips make predictions worse: evaluate with and without"
    )


def list_shifts(tta: Sequence[str], stride: int, causal: bool) -> tuple[int, ...]:
    """Return the frames by which the windows of a frame time lie later, the window itself first."""
    if "windows" not in tta:
        return (0,)
    # blocks of the video that the neighbouring windows share
    return (0, -stride) if causal else (0, -stride, stride)


def list_flips(tta: Sequence[str]) -> tuple[bool, ...]:
    """Return the ways to show a window: False as it is, True mirrored."""
    return (False, True) if "flips" in tta else (False,)


def mirror(images: NDArray[np.uint8], flips: Sequence[bool]) -> Iterator[NDArray[np.uint8]]:
    """Yield images (B, S, S, channels) once for each way to show them."""
    for is_mirrored in flips:
        yield np.ascontiguousarray(images[:, :, ::-1]) if is_mirrored else images
