"""Segment counts → what the loss does about rare phases, by named scheme; training rows only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ophnet_ray.config import WeightScheme
from ophnet_ray.data.annotations import sort_phases

EFFECTIVE_BETA = 0.999
FOCAL_GAMMA = 2.0


@dataclass(frozen=True, slots=True)
class PhaseBalance:
    """What the training loss does about rare phases.

    ``weights``: float32 (K,), mean 1 over the training rows, or None; ``logit_offsets``: float32
    (K,), added to the logits, or None; ``focal_gamma``: exponent of the focal loss, 0 for none.
    """

    weights: torch.Tensor | None = None
    logit_offsets: torch.Tensor | None = None
    focal_gamma: float = 0.0


def balance_phases(counts: NDArray[np.int64], scheme: WeightScheme) -> PhaseBalance:
    """What a scheme does.

    Args:
        counts: (K,) training rows of each phase of the vocabulary.
        scheme: Weights, see ``scheme_weights``; or ``logit_adjusted``: the logarithm of the
            phases' frequency is added to the logits, "Long-tail learning via logit adjustment"
            (arXiv:2007.07314), with τ = 1; a phase without rows counts as one row. Or ``focal``:
            the loss times (1 - p)², "Focal Loss" (arXiv:1708.02002), with an exponent of 2.
    """
    if scheme == "focal":
        return PhaseBalance(focal_gamma=FOCAL_GAMMA)
    if scheme == "logit_adjusted":
        rows = np.maximum(counts, 1)
        return PhaseBalance(logit_offsets=torch.from_numpy(np.log(rows / rows.sum())).float())
    weights = scheme_weights(counts, scheme)
    return PhaseBalance(None if weights is None else unit_mean(weights, counts))


def calculate_class_weights(df: pd.DataFrame, column: str) -> torch.Tensor:
    """Inverse frequency of each value of a column, divided by the largest.

    Returns:
        float32 (K,) in (0, 1], in the order of ``annotations.sort_phases``, which is that of the
        labels.
    """
    counts_by_name = df[column].astype(str).value_counts()
    counts = counts_by_name.loc[sort_phases(counts_by_name.index)]
    return torch.from_numpy(_inverse(np.asarray(counts, dtype=np.int64))).float()


def scheme_weights(counts: NDArray[np.int64], scheme: WeightScheme) -> torch.Tensor | None:
    """The weights of a scheme.

    Args:
        counts: (K,) training rows of each phase of the vocabulary. A phase without any has
            weight 0: no row of it will ask for one.
        scheme: ``inverse`` is total/count over its maximum; ``inverse_sqrt`` its square root;
            ``effective`` is (1-β)/(1-β^count), the inverse effective number of samples of
            "Class-Balanced Loss" (arXiv:1901.05555) with β = 0.999, over its maximum.

    Returns:
        float32 (K,) in [0, 1], or None for the schemes without weights.
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


def unit_mean(weights: torch.Tensor, counts: NDArray[np.int64]) -> torch.Tensor:
    """Scale weights so that the mean over the training rows is 1.

    The loss of a batch is then ``sum(w_i * l_i) / B``: an unbiased estimate whatever the batch
    holds. (Dividing by the batch's own sum of weights, as ``CrossEntropyLoss(weight=…)`` does,
    lets a single rare window own its batch.)
    """
    rows = torch.as_tensor(counts, dtype=weights.dtype)
    return weights * (rows.sum() / (weights * rows).sum())


def _inverse(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    raw = np.where(counts > 0, counts.sum() / np.maximum(counts, 1), 0.0)
    return np.asarray(raw / raw.max(), dtype=np.float64)
