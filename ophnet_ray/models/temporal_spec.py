"""Shape of a temporal model, as a checkpoint keeps it; loads no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from ophnet_ray.config import TrainingConfig
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPayload:
    """Part of a checkpoint on its temporal model, and on the encoder under it."""

    spec: TemporalSpec
    backbone: str
    """Name of the timm network in the encoder."""
    num_encoder_classes: int
    """Classes of the encoder's own classifier; 0 of a timm network without classifier."""
    encoder_phases: tuple[str, ...] = ()
    """Phases of these classes; empty in checkpoints of earlier versions, which are not known."""
    num_passes: int = 0
    """Times that an epoch of the training took each video; 0 where an earlier version trained."""

    def has_frame_model(self, phases: Sequence[str]) -> bool:
        """Return True if the encoder's classes are these phases, in their order."""
        return self.encoder_phases == tuple(phases)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``."""
        return cls(
            spec=TemporalSpec.from_dict(values["spec"]),
            backbone=values["backbone"],
            num_encoder_classes=values["num_encoder_classes"],
            encoder_phases=tuple(values.get("encoder_phases", ())),
            num_passes=values.get("num_passes", 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "spec": self.spec.to_dict(),
            "backbone": self.backbone,
            "num_encoder_classes": self.num_encoder_classes,
            "encoder_phases": list(self.encoder_phases),
            "num_passes": self.num_passes,
        }


def head_training(temporal: TemporalConfig, training: TrainingConfig) -> TrainingConfig:
    """Return the optimisation of a temporal model in the terms of a training: one video per step.

    Everything else is that of the frame model: workers, device, precision, schedule, weights of the
    phases, seed.
    """
    return replace(
        training,
        batch_size=1,
        accumulate_grad_batches=1,
        lr=temporal.temporal_lr,
        max_epochs=temporal.temporal_epochs,
    )
