"""Video → phase probabilities from a checkpoint with a temporal model: encode, then the head."""

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.inference.encoder import load_encoder_of
from ophnet_ray.inference.encoding_job import encode_video
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.inference.predictor import VideoPredictor, read_frame_times
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.models.temporal_checkpoint import load_head
from ophnet_ray.models.temporal_fit import predict_sequence
from ophnet_ray.models.temporal_input import select_values


class TemporalPredictor(VideoPredictor):
    """Encoder and temporal model on a device that predict one video after the other."""

    def _load(self, device: str) -> None:
        job = self._job
        self._encoder = load_encoder_of(job.checkpoint).to(device)
        self._head = load_head(job.checkpoint, device)
        spec = self._head.spec
        encoding = self._encoder.encoding(spec.frame_rate, spec.causal)
        # a description of the features; those of a prediction are not kept
        self._store = FeatureStore(job.parts, encoding)

    def predict(self, video_id: str, video: str) -> VideoPrediction:
        """Predict every frame time; at a rate other than trained, from the features shown last.

        Raises:
            VideoError: The video cannot be read.
        """
        sequence = encode_video(self._encoder, "", video, self._store)
        values = select_values(sequence, self._head.spec.input)
        probabilities = predict_sequence(self._head, values)
        probabilities[sequence.is_damaged] = np.nan  # no prediction is made up
        times_s = read_frame_times(video, self._job.info.frame_rate)
        shown = _shown_at(times_s, sequence.times_s)
        frame_labels = None
        if self._job.info.has_frame_model:
            best = np.nan_to_num(sequence.log_probs).argmax(axis=1)
            frame_labels = np.where(sequence.is_damaged, NO_PREDICTION, best)[shown]
        return VideoPrediction(video_id, times_s, probabilities[shown], frame_labels=frame_labels)


def _shown_at(times_s: NDArray[np.float64], known_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the last of the known times up to each time, (N,)."""
    # times are rounded: 29.999999 s is 30 s
    found = np.searchsorted(known_s, times_s + 1e-6, side="right") - 1
    return np.asarray(np.maximum(found, 0), dtype=np.int64)
