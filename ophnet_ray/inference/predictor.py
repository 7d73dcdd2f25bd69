"""Video → phase probabilities at its frame times, decoded in one pass and bounded memory.

Frame times are ``k / frame_rate`` for k = 0, 1, … up to the last frame. The window of a frame time
holds ``window_size`` consecutive frames at the video's own rate, as in training. It is *centred* on
the frame shown at that time, and moved inwards at both ends of the video. A *causal* window ends
with that frame instead, and is shorter at the start of the video: it uses nothing of the future.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.duplicates import read_content_ids
from ophnet_ray.data.video.blocks import decode_segments
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import read_video_index
from ophnet_ray.data.video.hang_guard import codec_at_rest
from ophnet_ray.data.video.index import VideoIndex, frames_shown_at
from ophnet_ray.data.windows import show_window
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction, write_predictions
from ophnet_ray.inference.trained_model import TrainedModel, load_model
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.payload import CheckpointPayload, Preprocessing
from ophnet_ray.storage.files import download, stat_files
from ophnet_ray.storage.paths import absolute, is_remote, name_of, plain_uri

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """Model and settings of a prediction, and the folder for the parts of finished videos."""

    checkpoint: str
    info: PredictionInfo
    parts: str

    def part_of(self, video_id: str, video: str) -> Path:
        """Return the path of a video's part; its name changes with the model, rate and video file.

        Raises:
            VideoError: The video is missing.
        """
        found = stat_files([video]).get(video)
        if found is None:
            raise VideoError("cannot be opened (there is no such file)", kind="missing")
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

    def build_worker(self, device: str, num_threads: int) -> Callable[[str, str], None]:
        """Load the model; return a function that writes the part of a video, by id and path."""
        if read_payload(self.checkpoint).head is not None:
            # it builds on this module
            from ophnet_ray.inference.temporal_predictor import TemporalPredictor

            return TemporalPredictor(self, device, num_threads).write_part
        return VideoPredictor(self, device, num_threads).write_part


@dataclass(frozen=True)
class PredictionResult:
    """Parts of the predicted videos, and reasons of the videos left out, both by video id."""

    parts: dict[str, Path]
    broken: dict[str, str]


PredictVideos = Callable[[PredictionJob, Mapping[str, str]], PredictionResult]
"""A function that predicts videos, given by id, except those that have a whole part."""


def build_job(checkpoint: str, parts: Path, frame_rate: float, causal: bool) -> PredictionJob:
    """Build the job of a prediction; parts depend on the checkpoint's content, not on its path.

    A temporal model is causal or not as it was trained.

    Raises:
        UserError: The checkpoint is wrong, or its temporal model is not causal as asked.
    """
    payload = read_payload(checkpoint)
    if payload.head is not None and causal and not payload.head.spec.causal:
        raise UserError(
            f"--causal: the temporal model of {checkpoint} looks ahead; train one with --causal"
        )
    causal = is_causal(payload, causal)
    info = PredictionInfo(
        payload.phases,
        frame_rate,
        hash_file(checkpoint),
        causal,
        has_frame_model=payload.head is not None and payload.head.has_frame_model(payload.phases),
    )
    return PredictionJob(str(Path(checkpoint).absolute()), info, str(parts))


def is_causal(payload: CheckpointPayload, causal: bool) -> bool:
    """Return True if predictions use the past alone: as asked, or as a temporal model was trained.

    Args:
        payload: Of the checkpoint.
        causal: True with the flag ``--causal``.
    """
    return causal if payload.head is None else payload.head.spec.causal


class VideoPredictor:
    """A model on its device, loaded once, that predicts one video after the other.

    Args:
        job: Model, settings and output folder.
        device: Device for torch, such as ``cpu`` or ``cuda``.
        num_threads: Threads of torch on the CPU.
    """

    def __init__(self, job: PredictionJob, device: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._job = job
        self._load(device)

    def _load(self, device: str) -> None:
        self._model = load_model(self._job.checkpoint, device)

    def write_part(self, video_id: str, video: str) -> None:
        """Predict a video and write its part, whole or not at all.

        Raises:
            VideoError: The video cannot be read.
        """
        part = self._job.part_of(video_id, video)
        with local_copy(video) as path:
            prediction = self.predict(video_id, path)
            content_id = read_content_ids([path]).get(path, "")
            prediction = replace(prediction, content_id=content_id)
        write_predictions(part, [(prediction, prediction.labels)], self._job.info)

    def predict(self, video_id: str, video: str) -> VideoPrediction:
        """Predict every frame time of a local video.

        Raises:
            VideoError: The video cannot be read.
        """
        return predict_video(self._model, video_id, video, self._job.info)


@contextmanager
def local_copy(video: str) -> Iterator[str]:
    """Yield a local path of the video; a video in a bucket is copied, and the copy deleted after.

    Raises:
        VideoError: The video cannot be fetched from the bucket.
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
        VideoError: The video cannot be read, or none of its frames can be decoded.
    """
    times_s = read_frame_times(video, info.frame_rate)
    probabilities = np.full((len(times_s), len(model.phases)), np.nan, dtype=np.float32)
    windows = windows_of(model.preprocessing)
    for batch in stream_batches(video, info.frame_rate, windows, causal=info.causal):
        with codec_at_rest():  # a large model takes minutes on a CPU
            probabilities[batch.indices] = model.predict(batch.images)
    return VideoPrediction(video_id, times_s, probabilities)


def windows_of(preprocessing: Preprocessing) -> WindowConfig:
    """Return the settings of windows for the input of a network."""
    return WindowConfig(
        window_size=preprocessing.window_size,
        stride=preprocessing.stride,
        max_frames=preprocessing.window_size,
        image_size=preprocessing.image_size,
        window_image=preprocessing.window_image,
    )


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Pictures of windows, uint8 (B, S, S, channels), and the indices of their B frame times."""

    indices: list[int]
    images: NDArray[np.uint8]


def stream_batches(
    video: str, frame_rate: float, windows: WindowConfig, *, causal: bool = False
) -> Iterator[WindowBatch]:
    """Decode a video once and yield its readable windows in batches, see ``stream_windows``.

    Raises:
        VideoError: The video cannot be read, or none of its frames can be decoded.
    """
    images: list[NDArray[np.uint8]] = []
    indices: list[int] = []
    reason, is_empty = "", True
    for window in stream_windows(video, frame_rate, windows, causal=causal):
        if window.image is None:
            reason = reason or window.reason
            continue
        images.append(window.image)
        indices.append(window.index)
        if len(indices) == BATCH_SIZE:
            yield WindowBatch(indices, np.stack(images))
            images, indices, is_empty = [], [], False
    if indices:
        yield WindowBatch(indices, np.stack(images))
    elif is_empty:
        raise VideoError(reason)


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """Picture of the window of a frame time, uint8 (S, S, channels).

    ``index`` counts the frame times from 0. ``image`` is None, with a ``reason``, where the frames
    are damaged.
    """

    index: int
    image: NDArray[np.uint8] | None
    reason: str = ""


def frame_times(last_s: float, frame_rate: float) -> NDArray[np.float64]:
    """Return ``k / frame_rate`` up to the time of the last frame, (N,), N > 0."""
    # times are rounded in files: 29.999999 s is 30 s
    return np.arange(math.floor(last_s * frame_rate + 1e-3) + 1) / frame_rate


def read_frame_times(video: str, frame_rate: float) -> NDArray[np.float64]:
    """Read the frame times of a video.

    Raises:
        VideoError: The video cannot be read.
    """
    return frame_times(float(read_video_index(video).times_s[-1]), frame_rate)


def stream_windows(
    video: str, frame_rate: float, windows: WindowConfig, *, causal: bool = False
) -> Iterator[FrameWindow]:
    """Decode a video once and yield the window of each frame time, in order.

    Memory: the blocks of the windows that overlap at one time, and about a hundred bytes per frame
    time.

    Args:
        video: Path.
        frame_rate: Frame times per second.
        windows: ``window_size``, ``stride``, ``image_size`` and ``window_image`` as trained.
        causal: Use only frames up to each frame time.

    Raises:
        VideoError: The video cannot be read, or storage failed while it was read.
    """
    index = read_video_index(video)
    times_s = frame_times(float(index.times_s[-1]), frame_rate)
    # each window is decoded like a short segment: the same pixels as in training
    segments = [
        _as_segment(i, video, index, plan_window(index, time_s, windows.window_size, causal))
        for i, time_s in enumerate(times_s)
    ]
    one_window = WindowConfig(
        window_size=windows.window_size,
        stride=windows.stride,
        max_frames=windows.window_size,
        coverage="head",
        image_size=windows.image_size,
        window_image=windows.window_image,
    )
    for i, blocks in decode_segments(video, segments, one_window):
        if blocks.pixels:
            yield FrameWindow(i, show_window(blocks.pixels, windows.window_image))
        elif blocks.is_permanent:
            yield FrameWindow(i, None, blocks.reason)
        else:
            raise VideoError(blocks.reason, is_permanent=False)


def plan_window(index: VideoIndex, time_s: float, window_size: int, causal: bool) -> range:
    """Return the indices of the frames in the window of a frame time."""
    num_frames = len(index.times_s)
    shown = int(frames_shown_at(index.times_s, time_s))
    if causal:
        return range(max(shown - window_size + 1, 0), shown + 1)
    first = min(max(shown - window_size // 2, 0), max(num_frames - window_size, 0))
    return range(first, min(first + window_size, num_frames))


def _as_segment(i: int, video: str, index: VideoIndex, frames: range) -> Segment:
    at_end = frames.stop == len(index.times_s)
    end_s = math.inf if at_end else float(index.times_s[frames.stop])
    return Segment(str(i), "", video, float(index.times_s[frames.start]), end_s, "")
