"""Video → phase probabilities from a checkpoint with a temporal model: encode, then the head."""

import itertools

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.inference.encoder import load_encoder_of
from ophnet_ray.inference.encoding_job import VideoEncoding
from ophnet_ray.inference.prediction_job import JobMember
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.inference.predictor import mean_of_views
from ophnet_ray.inference.tta import list_flips, mirror
from ophnet_ray.inference.window_stream import WindowBatch, frame_times
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.models.temporal_checkpoint import load_head
from ophnet_ray.models.temporal_fit import predict_sequence
from ophnet_ray.models.temporal_input import select_values


class TemporalPredictor:
    """Encoder and temporal model on a device."""

    def __init__(self, member: JobMember, device: str) -> None:
        self.member = member
        self.encoder = load_encoder_of(member.checkpoint).to(device)
        self.head = load_head(member.checkpoint, device)

    def begin(self, last_s: float) -> "TemporalPass":
        """Begin a video, whose last frame is shown at a time."""
        return TemporalPass(self, last_s)


class TemporalPass:
    """Features of one video under each view, and the temporal model's mean over the views."""

    def __init__(self, model: TemporalPredictor, last_s: float) -> None:
        self._model, self._info = model, model.member.info
        stream = model.member.stream
        self._flips, self._num_shifts = list_flips(self._info.tta), len(stream.shifts)
        self._times_s = frame_times(last_s, self._info.frame_rate)
        known_s = frame_times(last_s, stream.frame_rate)
        self._views = {
            view: VideoEncoding(model.encoder, known_s)
            for view in itertools.product(range(self._num_shifts), self._flips)
        }
        self._shown = _shown_at(self._times_s, known_s)

    def take(self, batch: WindowBatch) -> None:
        """Encode the next windows."""
        for shift in range(self._num_shifts):
            rows = batch.shifts == shift
            if not rows.any():
                continue
            images = batch.images if rows.all() else batch.images[rows]
            for is_mirrored, shown in zip(self._flips, mirror(images, self._flips), strict=True):
                self._views[shift, is_mirrored].take(batch.indices[rows], shown)

    def finish(self, video_id: str) -> VideoPrediction:
        """Predict every frame time; at a rate other than trained, from the features shown last."""
        head = self._model.head
        sums = np.zeros((len(self._times_s), head.spec.num_classes), dtype=np.float32)
        num_views = np.zeros((len(self._times_s), 1), dtype=np.float32)
        frame_labels = None
        for number, view in enumerate(self._views.values()):
            sequence = view.finish("")
            probabilities = predict_sequence(head, select_values(sequence, head.spec.input))
            is_known = ~sequence.is_damaged[self._shown]  # no prediction is made up
            sums[is_known] += probabilities[self._shown][is_known]
            num_views[is_known] += 1
            if number == 0 and self._info.has_frame_model:
                best = np.nan_to_num(sequence.log_probs).argmax(axis=1)
                frame_labels = np.where(sequence.is_damaged, NO_PREDICTION, best)[self._shown]
        mean = mean_of_views(sums, num_views)
        return VideoPrediction(video_id, self._times_s, mean, frame_labels=frame_labels)


def _shown_at(times_s: NDArray[np.float64], known_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the last of the known times up to each time, (N,)."""
    # times are rounded: 29.999999 s is 30 s
    found = np.searchsorted(known_s, times_s + 1e-6, side="right") - 1
    return np.asarray(np.maximum(found, 0), dtype=np.int64)
