"""Video → phase probabilities of each model at its frame times, and their mean.

A video is decoded once for all models that see the same windows (``WindowStream``). Each model's
probabilities are a part of their own, which every ensemble with this model finds.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ophnet_ray.data.duplicates import read_content_ids
from ophnet_ray.data.video.decoder import read_video_index
from ophnet_ray.data.video.hang_guard import codec_at_rest
from ophnet_ray.inference.averaging import average_predictions
from ophnet_ray.inference.prediction_job import JobMember, PredictionJob
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    is_whole,
    read_predictions,
    write_predictions,
)
from ophnet_ray.inference.trained_model import TrainedModel, load_model
from ophnet_ray.inference.tta import list_flips, mirror
from ophnet_ray.inference.window_stream import (
    WindowBatch,
    frame_times,
    local_copy,
    stream_batches,
)


class VideoPass(Protocol):
    """One model's work on one video."""

    def take(self, batch: WindowBatch) -> None:
        """Predict the next windows."""

    def finish(self, video_id: str) -> VideoPrediction:
        """Return the prediction, once all windows have come."""


class LoadedModel(Protocol):
    """A model on its device."""

    def begin(self, last_s: float) -> VideoPass:
        """Begin a video, whose last frame is shown at a time."""


class VideoPredictor:
    """The models of a job on a device, each loaded once, that predict one video after the other.

    A model is loaded for the first video that it has not predicted.

    Args:
        job: Models, settings and output folder.
        device: Device for torch, such as ``cpu`` or ``cuda``.
        num_threads: Threads of torch on the CPU.
    """

    def __init__(self, job: PredictionJob, device: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._job, self._device = job, device
        self._loaded: dict[str, LoadedModel] = {}
        if len(job.members) == 1:
            self._load(job.members[0])

    def _load(self, member: JobMember) -> LoadedModel:
        if member.checkpoint not in self._loaded:
            self._loaded[member.checkpoint] = _load(member, self._device)
        return self._loaded[member.checkpoint]

    def write_part(self, video_id: str, video: str) -> None:
        """Predict a video and write its part, whole or not at all; of several models, their mean.

        Raises:
            VideoError: The video cannot be read.
        """
        job = self._job
        final, *parts = job.locate_parts(
            video_id, video, [job.info, *(member.info for member in job.members)]
        )
        if len(parts) == 1:
            self._write_parts(video_id, video, {job.members[0]: final})
            return
        todo = {
            member: part
            for member, part in zip(job.members, parts, strict=True)
            if not is_whole(part)
        }
        if todo:
            self._write_parts(video_id, video, todo)
        mean = average_predictions(
            [next(read_predictions(part))[0] for part in parts],
            [member.share for member in job.members],
        )
        write_predictions(final, [(mean, mean.labels)], job.info)

    def _write_parts(self, video_id: str, video: str, part_of: dict[JobMember, Path]) -> None:
        members = list(part_of)
        with local_copy(video) as path:
            predictions = self.predict(video_id, path, members)
            content_id = read_content_ids([path]).get(path, "")
        for member, prediction in zip(members, predictions, strict=True):
            known = replace(prediction, content_id=content_id)
            write_predictions(part_of[member], [(known, known.labels)], member.info)

    def predict(
        self, video_id: str, video: str, members: Sequence[JobMember]
    ) -> list[VideoPrediction]:
        """Predict every frame time of a local video with some models of the job.

        Memory: a batch of windows and, for each model, its probabilities or features.

        Raises:
            VideoError: The video cannot be read, or none of its frames can be decoded.
        """
        last_s = float(read_video_index(video).times_s[-1])
        passes = [self._load(member).begin(last_s) for member in members]
        for stream in dict.fromkeys(member.stream for member in members):
            own = [each for each, m in zip(passes, members, strict=True) if m.stream == stream]
            for batch in stream_batches(video, stream):
                with codec_at_rest():  # a large model takes minutes on a CPU
                    for each in own:
                        each.take(batch)
        return [each.finish(video_id) for each in passes]


def _load(member: JobMember, device: str) -> LoadedModel:
    if member.is_temporal:
        # it builds on this module
        from ophnet_ray.inference.temporal_predictor import TemporalPredictor

        return TemporalPredictor(member, device)
    return FramePredictor(member, device)


class FramePredictor:
    """A frame model on its device."""

    def __init__(self, member: JobMember, device: str) -> None:
        self._model, self._info = load_model(member.checkpoint, device), member.info

    def begin(self, last_s: float) -> "FramePass":
        """Begin a video, whose last frame is shown at a time."""
        return FramePass(self._model, self._info, last_s)


class FramePass:
    """A frame model's probabilities of one video: the mean over the views of each frame time."""

    def __init__(self, model: TrainedModel, info: PredictionInfo, last_s: float) -> None:
        self._model, self._flips = model, list_flips(info.tta)
        self._times_s = frame_times(last_s, info.frame_rate)
        self._sums = np.zeros((len(self._times_s), len(model.phases)), dtype=np.float32)
        self._num_views = np.zeros((len(self._times_s), 1), dtype=np.float32)

    def take(self, batch: WindowBatch) -> None:
        """Predict the next windows."""
        for images in mirror(batch.images, self._flips):
            np.add.at(self._sums, batch.indices, self._model.predict(images))
            np.add.at(self._num_views, batch.indices, 1)

    def finish(self, video_id: str) -> VideoPrediction:
        """Return the prediction; frame times without a readable window have none."""
        return VideoPrediction(video_id, self._times_s, mean_of_views(self._sums, self._num_views))


def mean_of_views(sums: NDArray[np.float32], num_views: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide the sums (N, K) by the number of views (N, 1); rows without a view are NaN."""
    mean = np.full_like(sums, np.nan)
    np.divide(sums, num_views, out=mean, where=num_views > 0)
    return mean
