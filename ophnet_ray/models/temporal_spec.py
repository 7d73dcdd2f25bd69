"""Shape of a temporal model, as a checkpoint keeps it; loads no torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ophnet_ray.temporal_config import TemporalConfig, TemporalInput, TemporalKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalSpec:
    """Kind and sizes of a temporal model, and the sequences that it reads.

    ``num_inputs``: values per frame, D; ``num_classes``: phases, K; ``frame_rate``: frames per
    second; ``causal``: the model, and the windows behind its features, use the past alone.
    """

    kind: TemporalKind
    input: TemporalInput
    causal: bool
    frame_rate: float
    num_inputs: int
    num_classes: int
    num_layers: int
    num_stages: int
    num_channels: int
    dropout: float

    @classmethod
    def of_config(cls, config: TemporalConfig, num_inputs: int, num_classes: int) -> Self:
        """Describe the model of these settings over D = ``num_inputs`` values per frame."""
        return cls(
            kind=config.temporal,
            input=config.temporal_input,
            causal=config.causal,
            frame_rate=config.frame_rate,
            num_inputs=num_inputs,
            num_classes=num_classes,
            num_layers=config.num_layers,
            num_stages=config.temporal_stages if config.temporal == "mstcn" else 1,
            num_channels=config.temporal_channels,
            dropout=config.temporal_dropout,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``; keys that a later version added are ignored."""
        return cls(**{each.name: values[each.name] for each in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @property
    def context_s(self) -> tuple[float, float]:
        """Receptive field: seconds before and after a frame that its logits depend on."""
        if self.kind == "gru":
            return math.inf, 0.0 if self.causal else math.inf
        # three taps per layer, 1, 2, 4 … frames apart
        reach = self.num_stages * (2**self.num_layers - 1) / self.frame_rate
        return (2 * reach, 0.0) if self.causal else (reach, reach)

    def describe_context(self) -> str:
        """Return the receptive field in words."""
        before_s, after_s = self.context_s
        before = "the whole past" if math.isinf(before_s) else f"{before_s:.0f} s before"
        if not after_s:
            return f"{before}, nothing after"
        return f"{before} and " + (
            "the whole future" if math.isinf(after_s) else f"{after_s:.0f} s after"
        )
