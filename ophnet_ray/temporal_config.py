"""Flags of the temporal model: the second stage, over whole videos, that ``config`` adds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ophnet_ray.settings import Rule, count_rule, setting

TemporalKind = Literal["none", "mstcn", "gru"]
TemporalInput = Literal["features", "log_probs"]

CHECKPOINT_SUFFIX = ".ckpt"
"""Ending of an encoder that is a checkpoint; any other text is the name of a timm model."""
MAX_FRAME_RATE = 1000
"""Frame times per second of video, at most."""
MAX_LAYERS = 16
"""The last of 16 convolutions is dilated 2^15 times: 9 hours at one frame per second."""
MAX_FOLDS = 100


@dataclass(frozen=True, kw_only=True)
class TemporalConfig:
    """The temporal model over whole videos."""

    temporal: TemporalKind = setting("none", is_late=True)
    """Model over the features of whole videos, trained after the frame model: multi-stage dilated
    convolutions (MS-TCN, TeCNO), or a GRU."""
    causal: bool = setting(False, is_late=True)
    """Let the temporal model and its features use the past alone, as in live use."""
    encoder: str | None = setting(None, affects="location", is_path=True)
    """Source of the features: a checkpoint or run directory of train.py, or a timm model name with
    pretrained weights (default: the frame model that this command trains first)."""
    cross_fit: int | None = setting(None, is_late=True)
    """Folds of the training cases: the features of each come from a frame model that was trained on
    the other folds. Costs as many frame trainings more (default: one frame model for all)."""
    frame_rate: float = setting(1.0, is_late=True)
    """Features per second of video."""
    temporal_input: TemporalInput = setting("features", is_late=True)
    """Input of the temporal model: the encoder's features, or its log-probabilities alone."""
    temporal_layers: int | None = setting(None, is_late=True)
    """Layers per stage; the dilation doubles with each (default: 8 for mstcn, 1 for gru)."""
    temporal_stages: int = setting(2, is_late=True)
    """Stages of mstcn; each refines the probabilities of the one before."""
    temporal_channels: int = setting(64, is_late=True)
    """Channels of each layer."""
    temporal_dropout: float = setting(0.3, is_late=True)
    """Share of the channels that dropout sets to 0 in training."""
    temporal_lr: float = setting(1e-3, is_late=True)
    """Learning rate of the temporal model."""
    temporal_warmup_ratio: float = setting(0.05, is_late=True)
    """Share of the temporal model's steps in which temporal_lr rises, with --lr_schedule cosine."""
    temporal_epochs: int = setting(40, is_late=True)
    """Epochs of the temporal model. Each has at least 20 steps: few videos are taken several
    times."""
    smoothing_loss: float = setting(0.15, is_late=True)
    """Weight of the loss on jumps of the log-probabilities between neighbouring frames."""

    @property
    def num_layers(self) -> int:
        """Layers per stage: ``temporal_layers``, or the default of the kind."""
        if self.temporal_layers is not None:
            return self.temporal_layers
        return 1 if self.temporal == "gru" else 8

    @property
    def is_used(self) -> bool:
        """True if there is a temporal model."""
        return self.temporal != "none"

    def choose_epochs(self, max_epochs: int) -> int:
        """Return the epochs of the model that is scored, given those of the frame model."""
        return self.temporal_epochs if self.is_used else max_epochs

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        for name in ("temporal_stages", "temporal_channels", "temporal_epochs"):
            yield count_rule(name, getattr(self, name))
        yield (
            1 <= self.num_layers <= MAX_LAYERS,
            f"--temporal_layers {self.temporal_layers}: must be 1 to {MAX_LAYERS}",
        )
        lr, rate = self.temporal_lr, self.frame_rate
        yield 0 < lr < math.inf, f"--temporal_lr {lr}: must be more than 0, and finite"
        yield (
            0 < rate <= MAX_FRAME_RATE,
            f"--frame_rate {rate:g}: must be more than 0, at most {MAX_FRAME_RATE}",
        )
        for name in ("temporal_dropout", "temporal_warmup_ratio"):
            share = getattr(self, name)
            yield 0 <= share < 1, f"--{name} {share}: must be 0 or more, and less than 1"
        yield (
            0 <= self.smoothing_loss < math.inf,
            f"--smoothing_loss {self.smoothing_loss}: must be 0 or more, and finite",
        )
        yield (
            self.cross_fit is None or 2 <= self.cross_fit <= MAX_FOLDS,
            f"--cross_fit {self.cross_fit}: must be 2 to {MAX_FOLDS}",
        )
        yield (
            not (self.cross_fit and self.encoder),
            "--cross_fit trains the encoders itself; leave --encoder out",
        )
        for name in ("encoder", "causal", "cross_fit"):
            yield (
                self.is_used or not getattr(self, name),
                f"--{name} is for a temporal model; give --temporal mstcn or gru, too",
            )
