"""Models to compare by their predictions: truth and final labels of the same videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import (
    AnnotatedVideo,
    group_by_video,
    match_predictions,
)
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
)
from ophnet_ray.inference.same_names import check_same_cases, check_same_phases, name_strangers
from ophnet_ray.inference.split_evaluation import NO_FRAME_TIME
from ophnet_ray.inference.truth_file import read_truth
from ophnet_ray.metrics.comparison import ComparedModel, count_frames
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, label_times


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """Truth and final labels of one video, (N,) each, at its frame times."""

    video_id: str
    case_id: str
    times_s: NDArray[np.float64]
    truth: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class PredictedModel:
    """Predictions of one model: ``videos`` with annotated frames, sorted by case and id."""

    name: str
    info: PredictionInfo
    videos: tuple[LabelledVideo, ...]

    def count(self) -> ComparedModel:
        """Count the frames of each case."""
        scored = (
            ScoredVideo(
                video.case_id,
                video.truth,
                video.labels,
                video.probabilities,
                self.info.frame_rate,
            )
            for video in self.videos
        )
        phases = self.info.phases
        return count_frames(self.name, phases, CaseScores(scored, len(phases)))


@dataclass(frozen=True, slots=True)
class PredictionFiles:
    """A file of predictions and, of an evaluation, the file with its truth."""

    predictions: Path
    truth: Path | None = None

    @classmethod
    def find(cls, path: Path) -> "PredictionFiles | None":
        """Find the files in an output folder of ``evaluate`` or ``predict``, or take a file.

        Returns:
            None if there are none, and for a file with another suffix than ``.parquet``.
        """
        if path.is_file():
            if path.suffix != ".parquet":
                return None
            beside = PredictionFolder(path.parent)
            is_scored = path.name == beside.scored.name and beside.truth.is_file()
            return cls(path, beside.truth if is_scored else None)
        folder = PredictionFolder(path)
        if folder.scored.is_file() and folder.truth.is_file():
            return cls(folder.scored, folder.truth)
        return cls(folder.predictions) if folder.predictions.is_file() else None


def read_models(
    files: Sequence[tuple[str, PredictionFiles]], segments: Sequence[Segment] | None
) -> list[PredictedModel]:
    """Read models, by their names, and make sure that they predict the same frames.

    Args:
        files: Name and files of each model.
        segments: Rows of the annotation CSV; None: the truth that the evaluations kept.

    Raises:
        UserError: A file is damaged, the truth is missing, or the models do not fit together.
    """
    models = [_read_model(name, each, segments) for name, each in files]
    if not models[0].videos:
        raise UserError(NO_FRAME_TIME)
    for model in models[1:]:
        check_same_frames(models[0], model)
    return models


def check_same_frames(first: PredictedModel, other: PredictedModel) -> None:
    """Make sure that two models have the same phases, cases, videos, frame times and truth.

    Raises:
        UserError: They differ; it names the difference.
    """
    check_same_phases(first.name, first.info.phases, other.name, other.info.phases)
    if first.info.frame_rate != other.info.frame_rate:
        raise UserError(
            f"{first.name} has {first.info.frame_rate:g} predictions per second, {other.name} "
            f"{other.info.frame_rate:g}: predict with one --frame_rate"
        )
    pair = (first, other)
    cases, videos = (
        [sorted({getattr(video, name) for video in model.videos}) for model in pair]
        for name in ("case_id", "video_id")
    )
    check_same_cases(first.name, cases[0], other.name, cases[1])
    if strangers := name_strangers("videos", first.name, videos[0], other.name, videos[1]):
        raise UserError(f"{first.name} and {other.name} have different videos: {strangers}")
    for one, same in zip(first.videos, other.videos, strict=True):
        if not np.array_equal(one.times_s, same.times_s):
            what = "are of files of different length"
        elif not np.array_equal(one.truth, same.truth):
            what = "have different annotations: evaluate both with one CSV"
        else:
            continue
        raise UserError(f"video {one.video_id}: {first.name} and {other.name} {what}")


def _read_model(
    name: str, files: PredictionFiles, segments: Sequence[Segment] | None
) -> PredictedModel:
    info = read_info(files.predictions)
    found = {each.video_id: (each, labels) for each, labels in read_predictions(files.predictions)}
    if segments is not None:
        videos = group_by_video(segments, info.phases)
        source = files.predictions.name
        given = [prediction for prediction, _ in found.values()]
        matched = match_predictions(videos, given, source).found
        pairs = [(v, matched[v.video_id].video_id) for v in videos if v.video_id in matched]
    elif files.truth is not None:
        videos = read_truth(files.truth)
        pairs = [(video, video.video_id) for video in videos if video.video_id in found]
    else:
        raise UserError(
            f"{name}: predictions hold no truth; give --csv_path, or an output folder of `evaluate`"
        )
    label_of = {phase: label for label, phase in enumerate(info.phases)}
    labelled = [_label_video(video, *found[key], label_of) for video, key in pairs]
    kept = [video for video in labelled if (video.truth != NOT_ANNOTATED).any()]
    return PredictedModel(
        name, info, tuple(sorted(kept, key=lambda video: (video.case_id, video.video_id)))
    )


def _label_video(
    video: AnnotatedVideo,
    prediction: VideoPrediction,
    labels: NDArray[np.int64],
    label_of: dict[str, int],
) -> LabelledVideo:
    unknown = {segment.phase for segment in video.segments} - set(label_of)
    if unknown:
        raise UserError(
            f"video {video.video_id}: its predictions do not know phase {sorted(unknown)[0]!r}"
        )
    return LabelledVideo(
        video.video_id,
        video.case_id,
        prediction.times_s,
        label_times(prediction.times_s, video.segments, label_of),
        labels,
        prediction.probabilities,
    )
