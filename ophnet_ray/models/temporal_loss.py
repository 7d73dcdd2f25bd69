"""Loss of a temporal model: balanced cross-entropy of annotated frames, and smoothness."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.models.losses import PhaseBalance, PhaseLoss

MAX_JUMP = 4.0
"""Jumps of a log-probability count up to this value (τ of MS-TCN)."""


def smoothness_loss(logits: Tensor, is_annotated: Tensor) -> Tensor:
    """Return the truncated mean squared jump of the log-probabilities between annotated frames.

    The previous frame gets no gradient. See "MS-TCN" (arXiv:1903.01945), equations 9 to 11, whose
    videos are annotated throughout. Between annotated stretches anything may happen, and be seen:
    jumps from, to and between frames without annotation do not count.

    Args:
        logits: (B, N, K).
        is_annotated: (B, N), bool.

    Returns:
        The mean; 0 if no two neighbouring frames are annotated.
    """
    log_probs = F.log_softmax(logits, dim=2)
    jumps = (log_probs[:, 1:] - log_probs[:, :-1].detach()).abs()
    counted = jumps[is_annotated[:, 1:] & is_annotated[:, :-1]]
    return counted.clamp(max=MAX_JUMP).square().sum() / max(counted.numel(), 1)


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

        It is 0 for a batch without annotated frames.
        """
        is_annotated = labels != NOT_ANNOTATED
        total = (logits * 0).sum()  # it has gradients, also if nothing is added
        for stage in logits:
            if bool(is_annotated.any()):
                total = total + self.phase_loss(stage[is_annotated], labels[is_annotated])
            if self.smoothing:
                total = total + self.smoothing * smoothness_loss(stage, is_annotated)
        return torch.as_tensor(total)
