"""Segment counts → loss weights, by named scheme; always from training rows only."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ophnet_ray.annotations import sort_phases
from ophnet_ray.config import WeightScheme

EFFECTIVE_BETA = 0.999


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
        float32 (K,) in [0, 1], or None for the scheme ``none``.
    """
    match scheme:
        case "none":
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
