"""Encoding: everything that the features of a video depend on, besides the video."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ophnet_ray.config import MaskKind, Pooling, WindowImage
from ophnet_ray.data.video.blocks import RESIZE_FILTER

FORMAT_VERSION = 1
"""Version of the files and of the arithmetic behind them; part of every key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Encoder, its input and the frame times; equal values share features.

    The kind of device is not part of it: a GPU and a CPU differ in the last bits.

    Attributes:
        backbone: Name of the timm network.
        weights_hash: Hash of all its weights, and of the classifier's, if there is one.
        image_size: Height and width of the input, pixels.
        mean: Mean of the normalisation, for inputs in [0, 1].
        std: Standard deviation of the normalisation.
        mask: Kind of masks that are fused with the tokens.
        pooling: Tokens that are pooled to the features.
        window_size: Frames averaged into one input.
        stride: Frames per block; blocks are rounded to whole numbers before they are averaged.
        frame_rate: Frame times per second.
        causal: Windows end at their frame time.
        window_image: Picture of a window.
    """

    backbone: str
    weights_hash: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mask: MaskKind
    pooling: Pooling
    window_size: int
    stride: int
    frame_rate: float
    causal: bool
    window_image: WindowImage = "mean"

    @property
    def key(self) -> str:
        """Name of the encoding in a store: 32 hexadecimal digits."""
        text = json.dumps([FORMAT_VERSION, RESIZE_FILTER, self.to_dict()], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        if self.window_image == "mean":  # keys of earlier versions stay
            del values["window_image"]
        floats = {name: [float(value) for value in values[name]] for name in ("mean", "std")}
        return values | floats | {"frame_rate": float(self.frame_rate)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``.

        Raises:
            KeyError: One is missing.
        """
        values = {"window_image": "mean", **values}
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(**own | {"mean": tuple(own["mean"]), "std": tuple(own["std"])})
