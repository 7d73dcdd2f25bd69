"""Input of a temporal model: features of a video, or the log-probabilities of its encoder."""

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.temporal_config import TemporalInput

MIN_LOG_PROB = -12.0
"""Smaller log-probabilities are as good as impossible; one of them must not drown the others."""


def select_values(sequence: FeatureSequence, wanted: TemporalInput) -> NDArray[np.float32]:
    """Return the input of a temporal model, float32 (N, D); NaN where frames are damaged."""
    if wanted == "features":
        return sequence.features.astype(np.float32)
    return np.maximum(sequence.log_probs.astype(np.float32), MIN_LOG_PROB)
