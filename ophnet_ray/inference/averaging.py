"""Mean of several models' probabilities of one video."""

from collections.abc import Sequence

import numpy as np

from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import VideoPrediction


def average_predictions(
    predictions: Sequence[VideoPrediction], shares: Sequence[float]
) -> VideoPrediction:
    """Average probabilities with weights; at each time over the models that have a prediction.

    Args:
        predictions: Of one video at the same frame times, by models of one vocabulary.
        shares: Weight of each; they add up to 1.

    Raises:
        UserError: The frame times differ.
    """
    first = predictions[0]
    sums = np.zeros(first.probabilities.shape)
    known_shares = np.zeros((len(first.times_s), 1))
    for prediction, share in zip(predictions, shares, strict=True):
        if not np.array_equal(prediction.times_s, first.times_s):
            raise UserError(
                f"video {first.video_id}: the models' predictions are of files of different "
                "length; predict into a new --output"
            )
        is_known = ~np.isnan(prediction.probabilities[:, :1])
        sums += share * np.nan_to_num(prediction.probabilities)
        known_shares += share * is_known
    mean = np.full_like(sums, np.nan)
    np.divide(sums, known_shares, out=mean, where=known_shares > 0)
    return VideoPrediction(first.video_id, first.times_s, mean.astype(np.float32), first.content_id)
