"""Loss of a temporal model: balanced cross-entropy of annotated frames, and smoothness."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.models.losses import PhaseBalance, PhaseLoss

MAX_JUMP = 4.0
"""Jumps of a log-probability count up to this value (τ of MS-TCN)."""


def smoothness_loss(logits: Tensor) -> Tensor:
    """Return the truncated mean squared jump of the log-probabilities between frames.

    The previous frame gets no gradient. See "MS-TCN" (arXiv:1903.01945), equations 9 to 11.

    Args:
        logits: (B, N, K), N > 1.
    """
    log_probs = F.log_softmax(logits, dim=2)
    jumps = (log_probs[:, 1:] - log_probs[:, :-1].detach()).abs()
    return jumps.clamp(max=MAX_JUMP).square().mean()


class SequenceLoss(nn.Module):
    """Sum over stages of the phase loss of annotated frames and the weighted smoothness.

    Args:
        num_classes: Number of phases, K.
        balance: Adjustments for rare phases, from counts of training frames.
        smoothing: Weight of ``smoothness_loss``.
    """

    def __init__(self, num_classes: int, balance: PhaseBalance | None, smoothing: float) -> None:
        super().__init__()
        self.phase_loss = PhaseLoss(num_classes, balance)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (S, B, N, K) and labels (B, N), ``NOT_ANNOTATED`` ignored.

        Of a batch without annotated frames only the smoothness counts.
        """
        is_annotated = labels != NOT_ANNOTATED
        total = (logits * 0).sum()  # it has gradients, also if nothing is added
        for stage in logits:
            if bool(is_annotated.any()):
                total = total + self.phase_loss(stage[is_annotated], labels[is_annotated])
            if self.smoothing and stage.shape[1] > 1:
                total = total + self.smoothing * smoothness_loss(stage)
        return torch.as_tensor(total)
