"""One video → its part on disk: decode, predict, write. What an actor does, without Ray."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.video.decoder import VideoError
from ophnet_ray.inference.frame_windows import read_frame_times, stream_windows
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction, write_predictions
from ophnet_ray.inference.trained_model import TrainedModel, load_model
from ophnet_ray.storage.files import download, stat_files
from ophnet_ray.storage.paths import absolute, is_remote, name_of, plain_uri

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """What to predict with, and where the parts of finished videos are kept."""

    checkpoint: str
    info: PredictionInfo
    parts: str

    def part_of(self, video_id: str, video: str) -> Path:
        """The file of a finished video; another model, rate or file has another name.

        Raises:
            VideoError: The video is missing.
        """
        found = stat_files([video]).get(video)
        if found is None:
            raise VideoError("cannot be opened (there is no such file)")
        key = [
            video_id,
            plain_uri(absolute(video)),
            found.size_bytes,
            found.mtime_ns,
            self.info.checkpoint_sha256,
            self.info.frame_rate,
            self.info.causal,
        ]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        return Path(self.parts) / f"{digest}.parquet"


class VideoPredictor:
    """A model on its device, built once, that predicts one video after the other.

    Args:
        job: What to predict with.
        device: For torch.
        num_threads: Of torch on the CPU.
    """

    def __init__(self, job: PredictionJob, device: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._job = job
        self._model = load_model(job.checkpoint, device)

    def write_part(self, video_id: str, video: str) -> None:
        """Predict a video and keep the result, whole or not at all.

        Raises:
            VideoError: The video cannot be read.
        """
        part = self._job.part_of(video_id, video)
        with local_copy(video) as path:
            prediction = predict_video(self._model, video_id, path, self._job.info)
        write_predictions(part, [(prediction, prediction.labels)], self._job.info)


@contextmanager
def local_copy(video: str) -> Iterator[str]:
    """A path of the video on this machine: of one in a bucket a copy, for as long as it is needed.

    Raises:
        VideoError: The bucket does not give it.
    """
    if not is_remote(video):
        yield video
        return
    with tempfile.TemporaryDirectory(prefix="ophnet-video-") as folder:
        copy = Path(folder) / name_of(video)
        try:
            download(video, copy)
        except OSError as error:
            raise VideoError(f"cannot be fetched ({error})", is_permanent=False) from error
        yield str(copy)


def predict_video(
    model: TrainedModel, video_id: str, video: str, info: PredictionInfo
) -> VideoPrediction:
    """Predict every frame time of a video.

    Memory: a batch of windows, and the probabilities.

    Raises:
        VideoError: It cannot be read, or none of its frames can be decoded.
    """
    size = model.preprocessing.image_size
    windows = WindowConfig(
        window_size=model.preprocessing.window_size,
        stride=model.preprocessing.stride,
        max_frames=model.preprocessing.window_size,
        image_size=size,
    )
    times_s = read_frame_times(video, info.frame_rate)
    probabilities = np.full((len(times_s), len(model.phases)), np.nan, dtype=np.float32)
    images = np.empty((BATCH_SIZE, size, size, 3), dtype=np.uint8)
    places: list[int] = []
    reason = ""
    for window in stream_windows(video, info.frame_rate, windows, causal=info.causal):
        if window.image is None:
            reason = reason or window.reason
            continue
        images[len(places)] = window.image
        places.append(window.place)
        if len(places) == BATCH_SIZE:
            _fill(probabilities, places, model, images)
            places = []
    _fill(probabilities, places, model, images)
    if np.isnan(probabilities).all():
        raise VideoError(reason)
    return VideoPrediction(video_id, times_s, probabilities)


def _fill(
    probabilities: NDArray[np.float32],
    places: list[int],
    model: TrainedModel,
    images: NDArray[np.uint8],
) -> None:
    if places:
        probabilities[places] = model.predict(images[: len(places)])
