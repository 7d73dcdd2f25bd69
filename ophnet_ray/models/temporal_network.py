"""Temporal models over the frames of a whole video: multi-stage dilated convolutions, and a GRU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.models.temporal_spec import TemporalSpec

KERNEL = 3
MIN_STD = 1e-3
"""Inputs that hardly vary in training are not blown up."""


class DilatedLayer(nn.Module):
    """Residual layer: a dilated convolution over time, ReLU, a 1x1 convolution, dropout.

    A causal layer pads on the left alone. There is no batch norm: its statistics would carry the
    future of a video into its past.
    """

    def __init__(self, num_channels: int, dilation: int, dropout: float, causal: bool) -> None:
        super().__init__()
        reach = (KERNEL - 1) * dilation
        self._padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.dilated = nn.Conv1d(num_channels, num_channels, KERNEL, dilation=dilation)
        self.mix = nn.Conv1d(num_channels, num_channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape (B, C, N)."""
        hidden = F.relu(self.dilated(F.pad(values, self._padding)))
        out: Tensor = values + self.dropout(self.mix(hidden))
        return out


class Stage(nn.Module):
    """Stage of an MS-TCN: from (B, D, N) to logits (B, K, N); the dilation doubles per layer."""

    def __init__(self, num_inputs: int, spec: TemporalSpec) -> None:
        super().__init__()
        channels = spec.num_channels
        self.reduce = nn.Conv1d(num_inputs, channels, 1)
        self.layers = nn.Sequential(
            *(
                DilatedLayer(channels, 2**i, spec.dropout, spec.causal)
                for i in range(spec.num_layers)
            )
        )
        self.classifier = nn.Conv1d(channels, spec.num_classes, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return logits (B, K, N)."""
        logits: Tensor = self.classifier(self.layers(self.reduce(values)))
        return logits


class MultiStageTCN(nn.Module):
    """Stages of dilated convolutions; each refines the probabilities of the one before.

    See "MS-TCN" (arXiv:1903.01945), and "TeCNO" (arXiv:2003.10751) for the causal one.
    """

    def __init__(self, spec: TemporalSpec) -> None:
        super().__init__()
        widths = [spec.num_inputs] + [spec.num_classes] * (spec.num_stages - 1)
        self.input_dropout = nn.Dropout1d(spec.dropout)  # whole inputs, as in MS-TCN's code
        self.stages = nn.ModuleList(Stage(width, spec) for width in widths)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits of each stage, (S, B, N, K), of values (B, N, D)."""
        hidden = self.input_dropout(values.transpose(1, 2))  # (B, N, D) -> (B, D, N)
        logits = []
        for stage in self.stages:
            logits.append(stage(hidden))
            hidden = logits[-1].softmax(dim=1)
        return torch.stack(logits).transpose(2, 3)


class RecurrentModel(nn.Module):
    """A GRU over time, in both directions unless it is causal."""

    def __init__(self, spec: TemporalSpec) -> None:
        super().__init__()
        self.dropout = nn.Dropout(spec.dropout)
        self.reduce = nn.Linear(spec.num_inputs, spec.num_channels)
        self.gru = nn.GRU(
            spec.num_channels,
            spec.num_channels,
            spec.num_layers,
            batch_first=True,
            dropout=spec.dropout if spec.num_layers > 1 else 0.0,
            bidirectional=not spec.causal,
        )
        num_hidden = spec.num_channels * (1 if spec.causal else 2)
        self.classifier = nn.Linear(num_hidden, spec.num_classes)

    def forward(self, values: Tensor) -> Tensor:
        """Return logits (1, B, N, K) of values (B, N, D)."""
        hidden, _ = self.gru(F.relu(self.reduce(self.dropout(values))))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits[None]


class TemporalModel(nn.Module):
    """Temporal model with the normalisation of its inputs.

    Args:
        spec: Kind and sizes.

    Attributes:
        spec: Likewise.
        mean: Mean of each input over the training frames, float32 (D,); set by the training.
        std: Standard deviation of each input, likewise.
    """

    def __init__(self, spec: TemporalSpec) -> None:
        super().__init__()
        self.spec = spec
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(spec.num_inputs))
        self.register_buffer("std", torch.ones(spec.num_inputs))
        self.body = MultiStageTCN(spec) if spec.kind == "mstcn" else RecurrentModel(spec)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits of each stage, (S, B, N, K); the last stage is the answer.

        Args:
            values: Inputs (B, N, D); frames of NaN, which are damaged, count as the mean.
        """
        normalised = (values - self.mean) / self.std.clamp(min=MIN_STD)
        logits: Tensor = self.body(torch.nan_to_num(normalised))
        return logits
