"""Annotations and predictions of a split → scores on every annotated frame, and their page."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.data.video.decoder import VideoError, decode_frames, open_video, read_video_index
from ophnet_ray.data.video.index import frames_shown_at
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.prediction_folder import decode_labels, name_videos
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction
from ophnet_ray.inference.predictor import frame_times, read_frame_times
from ophnet_ray.inference.smoothing import SMOOTHERS, Smooth
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, VideoTimeline, WorstFrame, label_times
from ophnet_ray.models.dynamics import PhaseDynamics
from ophnet_ray.models.payload import CheckpointPayload

CHOSEN_BY = ("frame_accuracy", "macro_f1_present")
WORST_FRAMES = 4
JPEG_WIDTH = 320


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """A video and its segments of one split."""

    video_id: str
    video: str
    case_id: str
    segments: tuple[Segment, ...]


def choose_split(
    segments: Sequence[Segment], split: str, val_fraction: float, seed: int
) -> list[Segment]:
    """The segments of a split: the CSV's own, else the one that training made of the same rows.

    Args:
        segments: All rows.
        split: ``train``, ``val``, ``test`` or ``all``.
        val_fraction: Of the training run.
        seed: Likewise.

    Raises:
        UserError: The split has no rows.
    """
    if split == "all":
        return list(segments)
    assigned = assign_splits(segments, val_fraction, seed)
    chosen = [segment for segment in assigned if segment.split == split]
    if not chosen:
        found = ", ".join(sorted({segment.split for segment in assigned}))
        raise UserError(f"--split {split}: the CSV has no such rows; it has {found}, or give all")
    return chosen


def group_by_video(segments: Sequence[Segment], phases: Sequence[str]) -> list[AnnotatedVideo]:
    """One entry a video, in the order of the CSV.

    Raises:
        UserError: A phase is not one of the model's.
    """
    unknown = {segment.phase for segment in segments} - set(phases)
    if unknown:
        raise UserError(
            f"the checkpoint does not know phase {sorted(unknown)[0]!r} of the CSV; it has "
            f"{', '.join(phases[:10])}{' …' if len(phases) > 10 else ''}"
        )
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_video[segment.video].append(segment)
    return [
        AnnotatedVideo(video_id, video, by_video[video][0].case_id, tuple(by_video[video]))
        for video_id, video in name_videos(list(by_video)).items()
    ]


def align_prediction(
    video: AnnotatedVideo, prediction: VideoPrediction | None, info: PredictionInfo
) -> VideoPrediction:
    """Put a prediction on all frame times of its video; what is missing is a row of NaN.

    The times are those of the video; of a video that cannot be read, those of its annotations.
    """
    try:
        times_s = read_frame_times(video.video, info.frame_rate)
    except VideoError:
        ends = [s.end_s for s in video.segments if np.isfinite(s.end_s)]
        # [start, end) does not hold its end
        times_s = frame_times(
            max(max(ends, default=0.0) - 2e-3 / info.frame_rate, 0.0), (info.frame_rate)
        )
    probabilities = np.full((len(times_s), len(info.phases)), np.nan, dtype=np.float32)
    if prediction is not None:
        places = np.rint(prediction.times_s * info.frame_rate).astype(np.int64)
        inside = places < len(times_s)
        probabilities[places[inside]] = prediction.probabilities[inside]
    return VideoPrediction(video.video_id, times_s, probabilities)


class SplitEvaluation:
    """The videos of a split under each kind of decoding over time.

    Args:
        videos: Of the split.
        predictions: By video id; one that is missing counts as wrong in every frame.
        info: What was predicted with.
        dynamics: Of training; without them there is no smoothing.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        predictions: Mapping[str, VideoPrediction],
        info: PredictionInfo,
        dynamics: PhaseDynamics | None,
    ) -> None:
        self.videos, self._info, self._dynamics = videos, info, dynamics
        label_of = {phase: label for label, phase in enumerate(info.phases)}
        self._aligned = [align_prediction(v, predictions.get(v.video_id), info) for v in videos]
        self._truth = [
            label_times(aligned.times_s, video.segments, label_of)
            for video, aligned in zip(videos, self._aligned, strict=True)
        ]
        if not any((truth != NOT_ANNOTATED).any() for truth in self._truth):
            raise UserError("no frame time lies in an annotated segment; raise --frame_rate")
        kinds = SMOOTHERS if dynamics else SMOOTHERS[:1]
        self.scores: dict[Smooth, CaseScores] = {
            smooth: CaseScores(self._scored(smooth), len(info.phases)) for smooth in kinds
        }

    @property
    def best(self) -> Smooth:
        """The decoding with the highest mean of ``CHOSEN_BY``; ``none`` where no other gains."""
        means = {
            smooth: float(np.mean([scores.values[name] for name in CHOSEN_BY]))
            for smooth, scores in self.scores.items()
        }
        # of equals the first: none
        return max(means, key=lambda smooth: means[smooth])

    def timelines(self, smooth: Smooth, num_with_frames: int = 10) -> list[VideoTimeline]:
        """What the page draws; the frames of the worst errors for the first videos."""
        rows = zip(self.videos, self._aligned, self._truth, strict=True)
        return [
            VideoTimeline(
                video.video_id,
                aligned.times_s,
                aligned.labels,
                aligned.confidence_in(aligned.labels),
                truth,
                self._labels(aligned, smooth) if smooth != "none" else None,
                find_worst_frames(video.video, aligned, truth) if i < num_with_frames else (),
            )
            for i, (video, aligned, truth) in enumerate(rows)
        ]

    def _scored(self, smooth: Smooth) -> list[ScoredVideo]:
        return [
            ScoredVideo(video.case_id, truth, self._labels(aligned, smooth), aligned.probabilities)
            for video, aligned, truth in zip(self.videos, self._aligned, self._truth, strict=True)
        ]

    def _labels(self, aligned: VideoPrediction, smooth: Smooth) -> NDArray[np.int64]:
        if np.isnan(aligned.probabilities).all():
            return aligned.labels  # a video without predictions: nothing to smooth, all wrong
        return decode_labels(aligned, self._info, smooth, self._dynamics)


def find_worst_frames(
    video: str, prediction: VideoPrediction, truth: NDArray[np.int64]
) -> tuple[WorstFrame, ...]:
    """The frames that were wrong with most confidence, as JPEGs, in the order of time."""
    labels = prediction.labels
    confidence = prediction.confidence_in(labels)
    wrong = (truth != NOT_ANNOTATED) & (labels >= 0) & (labels != truth)
    order = np.argsort(-confidence * wrong, kind="stable")[:WORST_FRAMES]
    chosen = sorted(int(place) for place in order if wrong[place])
    if not chosen:
        return ()
    try:
        with open_video(video) as source:
            index = read_video_index(source)
            shown = frames_shown_at(index.times_s, prediction.times_s[chosen])
            images = {f.index: f for f in decode_frames(source, index, np.unique(shown))}
    except VideoError:
        return ()
    return tuple(
        WorstFrame(
            float(prediction.times_s[place]),
            int(truth[place]),
            int(labels[place]),
            float(confidence[place]),
            _to_jpeg(np.rot90(images[at].pixels, images[at].quarter_turns)),
        )
        for place, at in zip(chosen, shown.tolist(), strict=True)
        if at in images
    )


def find_seen_cases(videos: Sequence[AnnotatedVideo], payload: CheckpointPayload) -> list[str]:
    """The cases that the checkpoint was trained on; scores on them say nothing of new ones."""
    seen = set(payload.training.case_hashes)
    return sorted({video.case_id for video in videos if hash_case(video.case_id) in seen})


def hash_truth(videos: Sequence[AnnotatedVideo]) -> str:
    """sha256 over the annotations that were scored against."""
    rows = sorted(segment.segment_id for video in videos for segment in video.segments)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def check_predictions(path: Path, info: PredictionInfo, phases: Sequence[str]) -> None:
    """Make sure that a file of predictions speaks of the checkpoint's phases.

    Raises:
        UserError: It does not.
    """
    if list(info.phases) != list(phases):
        raise UserError(f"--predictions {path}: its phases are not those of the checkpoint")


def _to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    height, width = pixels.shape[:2]
    size = (JPEG_WIDTH, max(round(height * JPEG_WIDTH / width), 1))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return content.tobytes()
