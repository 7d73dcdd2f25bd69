"""Predictions and annotations of a split → scores over all annotated frames, and their page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray import __version__
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.index import frames_between
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import (
    AnnotatedVideo,
    group_by_video,
    hash_truth,
    match_predictions,
)
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
)
from ophnet_ray.inference.predictor import PredictVideos, build_job, frame_times, read_frame_times
from ophnet_ray.inference.smoothing import SMOOTHERS, Smooth, decode_labels, require_dynamics
from ophnet_ray.inference.split_choice import choose_split, warn_of_seen_cases
from ophnet_ray.inference.trained_model import choose_smoothing
from ophnet_ray.inference.worst_frames import find_worst_frames
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo, build_score_card, compare_scores
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, VideoTimeline, label_times
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.checkpoints import check_replaceable
from ophnet_ray.models.dynamics import PhaseDynamics
from ophnet_ray.models.payload import (
    CheckpointPayload,
    SmoothingChoice,
)
from ophnet_ray.reports.model_report import (
    ModelReport,
    choose_drawn,
    rank_videos,
    write_model_report,
)
from ophnet_ray.storage.files import write_atomically

CHOSEN_BY = ("frame_accuracy", "macro_f1_present")
"""Scores whose mean decides between kinds of smoothing."""
NO_FRAME_TIME = "no frame time lies in an annotated segment; raise --frame_rate"
MAX_NAMED = 3
"""Videos or cases that a warning names."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A checkpoint and the flags of ``evaluate``."""

    checkpoint: str
    source: str
    """Name of the annotations, for the page."""
    split: str
    frame_rate: float
    causal: bool
    smooth: Smooth | None
    """None: the choice kept in the checkpoint."""
    predictions: Path | None
    """Predictions to score; None: predict."""
    keep_choice: bool
    """Write the best smoothing into the checkpoint."""


@dataclass(frozen=True)
class Evaluation:
    """Scores under one smoothing, the best smoothing in words, and warnings about the scores.

    ``split`` states in one line which rows were scored, and why.
    """

    card: ScoreCard
    smooth: Smooth
    best_smoothing: str
    split: str
    warnings: tuple[str, ...]


def evaluate(
    folder: PredictionFolder,
    request: EvaluationRequest,
    segments: Sequence[Segment],
    predict: PredictVideos,
) -> Evaluation:
    """Score a checkpoint on a split; write ``scores.json`` and the page.

    Args:
        folder: Output.
        request: What to score, and how.
        segments: All rows of the annotation CSV.
        predict: Predicts the videos of a job that have no part yet.

    Raises:
        UserError: The checkpoint, the predictions or the annotations are wrong.
    """
    payload = read_payload(request.checkpoint)
    dynamics = payload.training.dynamics
    smooth = request.smooth or choose_smoothing(payload)
    if smooth != "none":
        require_dynamics(smooth, dynamics)
    chosen = choose_split(segments, request.split, payload)
    videos = group_by_video(chosen.segments, payload.phases)
    warnings = warn_of_seen_cases(chosen, payload)
    if request.keep_choice:
        check_replaceable(Path(request.checkpoint))
    if request.predictions is None:
        _check_frame_rate(chosen.segments, request.frame_rate)
    with folder.locked():
        info, predictions, missing = _collect_predictions(folder, request, videos, payload, predict)
        if missing:
            warnings = (*warnings, _format_missing(missing, len(videos)))
        result = SplitEvaluation(videos, predictions, info, dynamics)
        cases_by_phase = payload.training.cases_by_phase
        card = build_score_card(result.scores[smooth], chosen.split, info.phases, cases_by_phase)
        best_smoothing = _format_best(result)
        notes = [
            *warnings,
            f"scored: {chosen.reason}",
            f"smoothing chosen on the {chosen.split} split: {best_smoothing}",
        ]
        choice = SmoothingChoice(result.best, chosen.split, CHOSEN_BY)
        content = card.to_dict() | {
            "frame_rate": info.frame_rate,
            "causal": info.causal,
            "smooth": smooth,
            "smoothing": choice.to_dict(),
            "smoothing_scores": {name: scores.values for name, scores in result.scores.items()},
            "smoothing_gains": _compare_smoothing(result),
            "checkpoint_sha256": info.checkpoint_sha256,
            "notes": notes,
            "annotations_sha256": hash_truth(videos),
            "videos_without_prediction": missing,
        }
        write_atomically(folder.scores, json.dumps(content, indent=1).encode())
        report = _build_report(request, card, result.timelines(smooth), payload, notes, missing)
        write_model_report(folder.report, report)
    if request.keep_choice:
        write_smoothing_choice(request.checkpoint, choice)
    return Evaluation(card, smooth, best_smoothing, chosen.reason, warnings)


def align_prediction(
    video: AnnotatedVideo, prediction: VideoPrediction | None, info: PredictionInfo
) -> VideoPrediction:
    """Put a prediction on all frame times of its video, with rows of NaN for missing times.

    The times are those of the video. If it cannot be read, they cover its annotations.
    """
    try:
        times_s = read_frame_times(video.video, info.frame_rate)
    except VideoError:
        end_s = max((s.end_s for s in video.segments if np.isfinite(s.end_s)), default=0.0)
        # [start, end) does not hold its end
        times_s = frame_times(max(end_s - 2e-3 / info.frame_rate, 0.0), info.frame_rate)
    probabilities = np.full((len(times_s), len(info.phases)), np.nan, dtype=np.float32)
    if prediction is not None:
        indices = np.rint(prediction.times_s * info.frame_rate).astype(np.int64)
        is_inside = indices < len(times_s)
        probabilities[indices[is_inside]] = prediction.probabilities[is_inside]
    return VideoPrediction(video.video_id, times_s, probabilities)


class SplitEvaluation:
    """The videos of a split under each kind of smoothing.

    Args:
        videos: Videos of the split.
        predictions: By video id; every frame of a video without one counts as wrong.
        info: Settings of the predictions.
        dynamics: Order and duration of the phases in training; None: no smoothing.

    Attributes:
        scores: Scores of each kind of smoothing, ``none`` first.
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
            raise UserError(NO_FRAME_TIME)
        kinds = SMOOTHERS if dynamics else SMOOTHERS[:1]
        self.scores: dict[Smooth, CaseScores] = {
            smooth: CaseScores(self._scored(smooth), len(info.phases)) for smooth in kinds
        }

    @property
    def best(self) -> Smooth:
        """The smoothing with the highest mean of ``CHOSEN_BY``; ``none`` unless another gains."""
        means = {
            smooth: float(np.mean([scores.values[name] for name in CHOSEN_BY]))
            for smooth, scores in self.scores.items()
        }
        # of equals the first: none
        return max(means, key=lambda smooth: means[smooth])

    def timelines(self, smooth: Smooth) -> list[VideoTimeline]:
        """Build the timelines for the page; those that it draws come with their worst frames."""
        rows = list(zip(self.videos, self._aligned, self._truth, strict=True))
        timelines = [
            VideoTimeline(
                video.video_id,
                aligned.times_s,
                aligned.labels,
                aligned.confidence_in(aligned.labels),
                truth,
                self._labels(aligned, smooth) if smooth != "none" else None,
            )
            for video, aligned, truth in rows
        ]
        drawn = {timeline.video_id for _, timeline in choose_drawn(rank_videos(timelines))}
        return [
            replace(timeline, worst=find_worst_frames(video.video, aligned, truth))
            if timeline.video_id in drawn
            else timeline
            for timeline, (video, aligned, truth) in zip(timelines, rows, strict=True)
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


def _check_frame_rate(segments: Sequence[Segment], frame_rate: float) -> None:
    """Refuse a rate at which no frame time lies in a segment, however long the videos are."""
    for segment in segments:
        times_s = frame_times(segment.start_s + 1 / frame_rate, frame_rate)
        if len(frames_between(times_s, segment.start_s, segment.end_s)):
            return
    raise UserError(NO_FRAME_TIME)


def _collect_predictions(
    folder: PredictionFolder,
    request: EvaluationRequest,
    videos: Sequence[AnnotatedVideo],
    payload: CheckpointPayload,
    predict: PredictVideos,
) -> tuple[PredictionInfo, dict[str, VideoPrediction], dict[str, str]]:
    """Read the given predictions, or predict.

    Returns:
        Settings; predictions by video id; the reason of each video without one, by its id.
    """
    if request.predictions is not None:
        info = read_info(request.predictions)
        if info.phases != payload.phases:
            raise UserError(
                f"--predictions {request.predictions}: its phases are not those of the checkpoint"
            )
        given = [prediction for prediction, _ in read_predictions(request.predictions)]
        matched = match_predictions(videos, given, request.predictions.name)
        return info, matched.found, matched.missing
    job = build_job(request.checkpoint, folder.parts, request.frame_rate, request.causal)
    result = predict(job, {video.video_id: video.video for video in videos})
    if not result.parts:
        raise UserError(f"none of the {len(videos)} videos can be read")
    found = [next(iter(read_predictions(part)))[0] for part in result.parts.values()]
    return job.info, {prediction.video_id: prediction for prediction in found}, result.broken


def _compare_smoothing(result: SplitEvaluation) -> dict[str, Any]:
    """Return the gain of each smoothing over none."""
    raw = result.scores["none"]
    return {
        smooth: {k: v.to_dict() for k, v in compare_scores(raw, scores, CHOSEN_BY).items()}
        for smooth, scores in result.scores.items()
        if smooth != "none"
    }


def _build_report(
    request: EvaluationRequest,
    card: ScoreCard,
    timelines: Sequence[VideoTimeline],
    payload: CheckpointPayload,
    notes: Sequence[str],
    missing: Mapping[str, str],
) -> ModelReport:
    smooth = request.smooth or choose_smoothing(payload)
    return ModelReport(
        title=f"Evaluation of {Path(request.checkpoint).name}",
        subtitle=f"{card.split} split of {request.source}, smoothing: {smooth}",
        card=card,
        history=payload.history,
        timelines=timelines,
        passport=None,
        rejects=list(missing.items()),
        config=payload.config,
        versions={"ophnet-ray": __version__},
        notes=notes,
    )


def _format_missing(missing: Mapping[str, str], num_videos: int) -> str:
    named = [f"{video_id}: {reason}" for video_id, reason in list(missing.items())[:MAX_NAMED]]
    more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return (
        f"{len(missing)} of {num_videos} videos have no prediction and count as wrong in every "
        f"frame ({'; '.join(named)}{more})"
    )


def _format_best(result: SplitEvaluation) -> str:
    if len(result.scores) == 1:
        return "none (the checkpoint was trained on trimmed clips, which show no order)"
    parts = [
        f"{smooth} {scores.values['frame_accuracy']:.4f} / {scores.values['macro_f1_present']:.4f}"
        for smooth, scores in result.scores.items()
    ]
    return f"{result.best} (frame accuracy / macro-F1: {', '.join(parts)})"
