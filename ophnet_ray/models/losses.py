"""Training loss and its class-weight schemes, from counts of training segments only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.config import WeightScheme
from ophnet_ray.data.annotations import sort_phases
from ophnet_ray.errors import UserError

EFFECTIVE_BETA = 0.999
FOCAL_GAMMA = 2.0


@dataclass(frozen=True, slots=True)
class PhaseBalance:
    """Adjustments of the training loss for rare phases."""

    weights: Tensor | None = None
    """Weight of each phase, float32 (K,), with mean 1 over the training segments."""
    logit_offsets: Tensor | None = None
    """Offset added to the logits, float32 (K,)."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss; 0 for the plain cross-entropy."""


class PhaseLoss(nn.Module):
    """Cross-entropy with the adjustments of a ``PhaseBalance`` and label smoothing.

    Smoothing takes the share ε of each target from its phase and spreads it over all K, see
    "Rethinking the Inception Architecture" (arXiv:1512.00567). It precedes the adjustments: offsets
    are added to the logits first, and the smoothed loss is multiplied by the weight, and by the
    focal factor, of the annotated phase.

    The loss of a mixed window is the mean of its losses against its two phases, each adjusted as
    if it were the annotated one, weighted by their shares. Without adjustments that is the
    cross-entropy against the mixed target, see "mixup" (arXiv:1710.09412).

    Args:
        num_classes: Number of phases.
        balance: Adjustments; the plain cross-entropy by default.
        label_smoothing: ε, in [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        balance: PhaseBalance | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        balance = balance or PhaseBalance()
        weights, offsets = balance.weights, balance.logit_offsets
        self.weights: Tensor
        self.logit_offsets: Tensor
        # not persistent: they come from the training segments again whenever a run resumes
        self.register_buffer(
            "weights",
            torch.ones(num_classes) if weights is None else weights.float(),
            persistent=False,
        )
        self.register_buffer(
            "logit_offsets",
            torch.zeros(num_classes) if offsets is None else offsets,
            persistent=False,
        )
        self.focal_gamma = balance.focal_gamma

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        other_labels: Tensor | None = None,
        own_share: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss.

        Args:
            logits: (B, K).
            labels: (B,).
            other_labels: Second labels of mixed windows, (B,); None without mixtures.
            own_share: Share of ``labels`` in the targets, (B,) in [0, 1].
        """
        losses = self._losses(logits, labels)
        if other_labels is not None and own_share is not None:
            losses = self._losses(logits, other_labels).lerp(losses, own_share)
        return losses.mean()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the adjusted loss of each window against its label, (B,)."""
        adjusted = logits + self.logit_offsets
        losses = plain = F.cross_entropy(adjusted, labels, reduction="none")
        if self.label_smoothing:
            losses = F.cross_entropy(
                adjusted, labels, reduction="none", label_smoothing=self.label_smoothing
            )
        if self.focal_gamma:
            # exp(-cross-entropy) is the probability of the label
            losses = losses * (1 - torch.exp(-plain)) ** self.focal_gamma
        return losses * self.weights[labels]


def balance_phases(counts: NDArray[np.int64], scheme: WeightScheme) -> PhaseBalance:
    """Return the loss adjustments of a scheme.

    Args:
        counts: Training segments of each phase, (K,).
        scheme: A scheme with weights, see ``scheme_weights``. ``logit_adjusted`` adds the logarithm
            of the phases' frequency to the logits, see "Long-tail learning via logit adjustment"
            (arXiv:2007.07314), with τ = 1; a phase without segments counts as one. ``focal``
            multiplies the loss by (1 - p)², see "Focal Loss" (arXiv:1708.02002), with
            an exponent of 2.
    """
    if scheme == "focal":
        return PhaseBalance(focal_gamma=FOCAL_GAMMA)
    if scheme == "logit_adjusted":
        present = np.maximum(counts, 1)
        offsets = torch.from_numpy(np.log(present / present.sum())).float()
        return PhaseBalance(logit_offsets=offsets)
    weights = scheme_weights(counts, scheme)
    return PhaseBalance(None if weights is None else unit_mean(weights, counts))


def calculate_class_weights(df: pd.DataFrame, column: str) -> Tensor:
    """Return the inverse frequency of each value of a column, divided by the largest.

    Returns:
        float32 (K,) in (0, 1], in the order of the labels (``annotations.sort_phases``).

    Raises:
        UserError: The table has no such column, no row, or a row without a value in it.
    """
    if column not in df.columns:
        has = ", ".join(map(str, df.columns))
        raise UserError(f"calculate_class_weights: no column {column}; the table has {has}")
    num_empty = int(df[column].isna().sum())
    if df.empty or num_empty:
        problem = f"{num_empty} of {len(df)} rows have no {column}" if num_empty else "no rows"
        raise UserError(f"calculate_class_weights: {problem}")
    counts_by_name = df[column].astype(str).value_counts()
    counts = counts_by_name.loc[sort_phases(counts_by_name.index)]
    return torch.from_numpy(_inverse(np.asarray(counts, dtype=np.int64))).float()


def scheme_weights(counts: NDArray[np.int64], scheme: WeightScheme) -> Tensor | None:
    """Return the phase weights of a scheme.

    Args:
        counts: Training segments of each phase, (K,). A phase without segments has weight 0.
        scheme: ``inverse`` is total/count; ``inverse_sqrt`` is its square root; ``effective`` is
            (1-β)/(1-β^count), the inverse effective number of samples of "Class-Balanced Loss"
            (arXiv:1901.05555) with β = 0.999. Each is divided by its maximum.

    Returns:
        float32 (K,) in [0, 1], or None for a scheme without weights.
    """
    match scheme:
        case "none" | "logit_adjusted" | "focal":
            return None
        case "inverse":
            weights = _inverse(counts)
        case "inverse_sqrt":
            weights = np.sqrt(_inverse(counts))
        case "effective":
            raw = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.maximum(counts, 1))
            raw = np.where(counts > 0, raw, 0.0)
            weights = raw / raw.max()
    return torch.from_numpy(weights).float()


def unit_mean(weights: Tensor, counts: NDArray[np.int64]) -> Tensor:
    """Scale weights so that their mean over the training segments is 1.

    The loss of a batch is then ``sum(w_i * l_i) / B``, an unbiased estimate for any batch.
    ``CrossEntropyLoss(weight=…)`` divides by the sum of the batch's weights instead, so that a
    single rare window dominates its batch.
    """
    segments = torch.as_tensor(counts, dtype=weights.dtype)
    return weights * (segments.sum() / (weights * segments).sum())


def _inverse(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    raw = np.where(counts > 0, counts.sum() / np.maximum(counts, 1), 0.0)
    return np.asarray(raw / raw.max(), dtype=np.float64)
