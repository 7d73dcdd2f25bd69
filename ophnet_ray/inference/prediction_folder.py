"""Output folder of a prediction: parts of finished videos, and the files joined from them."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray import __version__
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import ENSEMBLE_FILE
from ophnet_ray.inference.ensemble_payload import read_model_payload
from ophnet_ray.inference.ensemble_replacement import check_unchanged
from ophnet_ray.inference.prediction_job import (
    PredictionResult,
    PredictVideos,
    build_job,
    is_causal,
)
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    describe_model,
    read_predictions,
    temper_prediction,
    write_predictions,
)
from ophnet_ray.inference.smoothing import Smooth, Smoothing
from ophnet_ray.inference.submission import (
    Submission,
    Template,
    check_submission,
    fill_template,
)
from ophnet_ray.inference.trained_model import choose_smoothing
from ophnet_ray.inference.tta import Tta
from ophnet_ray.inference.window_stream import read_frame_times
from ophnet_ray.metrics.timelines import VideoTimeline, cut_segments, format_segments
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.reports.model_report import ModelReport, write_model_report
from ophnet_ray.storage.access import check_no_folder, ensure_writable
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import name_of
from ophnet_ray.storage.replacement import check_no_stranger
from ophnet_ray.storage.unfinished import delete_unnamed
from ophnet_ray.wording import say_count

MAX_VIDEOS_DRAWN = 100
"""Videos on the page: a browser cannot open a page of thousands."""


@dataclass(frozen=True, slots=True)
class PredictionFolder:
    """Paths in ``--output``."""

    path: Path

    @property
    def parts(self) -> Path:
        """Folder with one file per finished video, from which a killed prediction resumes."""
        return self.path / "parts"

    @property
    def predictions(self) -> Path:
        """Predictions of all videos, one row per frame time."""
        return self.path / "predictions.parquet"

    @property
    def segments(self) -> Path:
        """Predicted phases as intervals: an annotation CSV."""
        return self.path / "segments.csv"

    @property
    def submission(self) -> Path:
        """The filled template."""
        return self.path / "submission.csv"

    @property
    def scores(self) -> Path:
        """Scores of an evaluation."""
        return self.path / "scores.json"

    @property
    def scored(self) -> Path:
        """Predictions of an evaluation at all frame times, as they were scored."""
        return self.path / "scored.parquet"

    @property
    def truth(self) -> Path:
        """Annotations that they were scored against."""
        return self.path / "truth.json"

    @property
    def ensemble(self) -> Path:
        """Members of the ensemble that the command was given as several checkpoints."""
        return self.path / ENSEMBLE_FILE

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep other processes out of it; the lock ends with the process.

        Raises:
            UserError: The folder or a file in it cannot be written, or another process uses it.
        """
        busy = f"another process predicts into {self.path}; wait for it, or choose another --output"
        with ExitStack() as held:
            try:
                ensure_writable(self.parts)
                held.enter_context(exclusive(self.path / ".lock", busy=busy))
            except OSError as error:
                raise UserError(
                    f"--output {self.path} cannot be written: {error.strerror}"
                ) from error
            files = (self.predictions, self.segments, self.submission, self.report)
            check_no_folder("--output", *files, self.scores, self.scored, self.truth, self.ensemble)
            delete_unnamed(self.path, self.parts)
            yield


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """A model, the videos to predict, by id, and the flags of ``predict``.

    ``checkpoint``: path of a checkpoint, or of ``ensemble.yaml``.
    """

    checkpoint: str
    videos: Mapping[str, str]
    frame_rate: float
    causal: bool
    smooth: Smooth | None
    """None: the choice kept in the checkpoint."""
    look_ahead_s: float = 0.0
    """Seconds after each time that smoothing may look ahead, if ``causal``."""
    template: Template | None = None
    """Challenge template to fill."""
    first_frame: int = 0
    """The template's number for the first frame of a video."""
    tta: tuple[Tta, ...] = ()
    """Kinds of test-time augmentation."""
    gathered_sha256: str = ""
    """Identity of the ensemble that this command has written into ``checkpoint``."""


@dataclass(frozen=True)
class PredictionSummary:
    """Facts about a finished prediction."""

    num_videos: int
    num_rows: int
    smooth: Smooth
    submission: Submission | None


def predict_into(
    folder: PredictionFolder, request: PredictionRequest, predict: PredictVideos
) -> PredictionSummary:
    """Predict videos and write all files of the folder; finished videos are not predicted again.

    Args:
        folder: Output.
        request: What to predict, and how.
        predict: Predicts the videos of a job that have no part yet.

    Raises:
        UserError: The checkpoint or the template is wrong, or no video can be read.
    """
    payload = read_model_payload(request.checkpoint)
    smoothing = Smoothing.of_checkpoint(
        payload,
        request.smooth or choose_smoothing(payload),
        request.look_ahead_s if is_causal(payload, request.causal) else None,
        is_asked_for=request.smooth is not None,
    )
    if request.template is not None:
        _check_template(request.template, request)
    with folder.locked():
        # segments.csv may well be the user's table of annotations
        check_no_stranger("--output", [folder.segments, folder.submission], folder.predictions)
        check_unchanged(request.checkpoint, request.gathered_sha256)
        job = build_job(
            request.checkpoint, folder.parts, request.frame_rate, request.causal, request.tta
        )
        result = predict(job, request.videos)
        if not result.parts:
            raise UserError(f"no video can be read (of {len(request.videos)})")
        num_rows = join_parts(
            result.parts, folder, job.info, smoothing, temperature=payload.temperature
        )
        _write_page(folder, payload, job.info, smoothing.smooth, result, request.videos)
        submission = _write_submission(folder, request, payload, result.broken)
    return PredictionSummary(len(result.parts), num_rows, smoothing.smooth, submission)


def join_parts(
    parts: Mapping[str, Path],
    folder: PredictionFolder,
    info: PredictionInfo,
    smoothing: Smoothing,
    *,
    temperature: float = 1.0,
) -> int:
    """Decode parts over time and write ``predictions.parquet`` and ``segments.csv``.

    The probabilities are decoded as the network gives them, and written at the temperature.
    Memory: one video.

    Returns:
        Number of rows.
    """
    timelines = []

    def decoded() -> Iterator[tuple[VideoPrediction, NDArray[np.int64]]]:
        for part in parts.values():
            for prediction, _ in read_predictions(part):
                labels = smoothing.decode(prediction, info)
                segments = cut_segments(prediction.times_s, labels, info.frame_rate)
                timelines.append((prediction.video_id, segments))
                yield temper_prediction(prediction, temperature), labels

    kept = replace(
        info,
        smooth=smoothing.smooth,
        look_ahead_s=smoothing.look_ahead_s or 0.0,
        temperature=temperature,
    )
    num_rows = write_predictions(folder.predictions, decoded(), kept)
    write_atomically(folder.segments, format_segments(timelines, info.phases).encode())
    return num_rows


def _write_page(
    folder: PredictionFolder,
    payload: CheckpointPayload,
    info: PredictionInfo,
    smooth: Smooth,
    result: PredictionResult,
    videos: Mapping[str, str],
) -> None:
    timelines = [
        VideoTimeline(
            prediction.video_id,
            prediction.times_s,
            prediction.labels,
            prediction.confidence_in(prediction.labels),
            smoothed=None if (labels == prediction.labels).all() else labels,
            frame_model=prediction.frame_labels,
        )
        for prediction, labels in itertools.islice(
            read_predictions(folder.predictions), MAX_VIDEOS_DRAWN
        )
    ]
    report = ModelReport(
        title="Predicted phases",
        subtitle=f"{say_count(len(result.parts), 'video')}, {describe_model(info)}smoothing: "
        f"{smooth}",
        card=None,
        history=payload.history,
        timelines=timelines,
        passport=None,
        rejects=[(name_of(videos[v]), reason) for v, reason in result.broken.items()],
        config=payload.config,
        versions={"ophnet-ray": __version__},
        notes=[],
        phases=payload.phases,
    )
    write_model_report(folder.report, report)


def _check_template(template: Template, request: PredictionRequest) -> None:
    """Refuse another rate, or another number of the first frame, before hours of prediction.

    The videos with the lowest and the highest frame number stand for all: to find the length of a
    video, its whole file is read.
    """
    template.check_videos(request.videos)
    num_frames = {}
    for video_id in dict.fromkeys(template.outermost):
        # a broken video is reported with the others
        with suppress(VideoError):
            times_s = read_frame_times(request.videos[video_id], request.frame_rate)
            num_frames[video_id] = len(times_s)
    template.check_frames(num_frames, request.first_frame)


def _write_submission(
    folder: PredictionFolder,
    request: PredictionRequest,
    payload: CheckpointPayload,
    broken: Mapping[str, str],
) -> Submission | None:
    template = request.template
    if template is None:
        return None
    labels = {p.video_id: final for p, final in read_predictions(folder.predictions)}
    submission = fill_template(template, labels, payload.phases, request.first_frame, broken)
    write_atomically(folder.submission, submission.text.encode())
    check_submission(folder.submission, template, payload.phases)
    return submission
