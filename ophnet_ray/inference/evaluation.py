"""Predictions and annotations of a split → scores over all annotated frames, and their page."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ophnet_ray import __version__
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.video.index import frames_between
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.annotated_videos import (
    AnnotatedVideo,
    group_by_video,
    hash_truth,
    match_predictions,
)
from ophnet_ray.inference.decoder_tuning import (
    CHOSEN_BY,
    NO_SMOOTHING,
    TunedDecoder,
    describe_tuning,
)
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
    write_predictions,
)
from ophnet_ray.inference.predictor import PredictVideos, build_job, frame_times, is_causal
from ophnet_ray.inference.smoothing import SMOOTHERS, Smooth, Smoothing
from ophnet_ray.inference.split_choice import (
    choose_split,
    warn_of_choosing_cases,
    warn_of_seen_cases,
)
from ophnet_ray.inference.split_evaluation import NO_FRAME_TIME, SplitEvaluation
from ophnet_ray.inference.trained_model import choose_smoothing
from ophnet_ray.inference.truth_file import write_truth
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.metrics.scoring import build_score_card
from ophnet_ray.metrics.timelines import VideoTimeline
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.checkpoints import check_replaceable
from ophnet_ray.models.payload import (
    CheckpointPayload,
    SmoothingChoice,
)
from ophnet_ray.reports.model_report import (
    ModelReport,
    write_model_report,
)
from ophnet_ray.storage.files import write_atomically

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
    """Write the chosen smoothing into the checkpoint."""
    look_ahead_s: float = 0.0
    """Seconds after each time that smoothing may look ahead, if ``causal``."""


@dataclass(frozen=True)
class Evaluation:
    """Scores under one smoothing, the chosen smoothing in words, and warnings about the scores.

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
    """Score a checkpoint on a split; write the scores, what was scored, and the page.

    Args:
        folder: Output.
        request: What to score, and how.
        segments: All rows of the annotation CSV.
        predict: Predicts the videos of a job that have no part yet.

    Raises:
        UserError: The checkpoint, the predictions or the annotations are wrong.
    """
    payload = read_payload(request.checkpoint)
    smoothings = _list_smoothings(payload, request)
    smooth = _choose_scored(payload, request, smoothings["none"].look_ahead_s)
    chosen = choose_split(segments, request.split, payload)
    videos = group_by_video(chosen.segments, payload.phases)
    warnings = warn_of_seen_cases(chosen, payload)
    if smooth != "none" and request.smooth in (None, "tuned"):
        warnings += warn_of_choosing_cases(chosen, payload)
    if request.keep_choice:
        check_replaceable(Path(request.checkpoint))
    if request.predictions is None:
        _check_frame_rate(chosen.segments, request.frame_rate)
    with folder.locked():
        info, predictions, missing = _collect_predictions(folder, request, videos, payload, predict)
        if missing:
            warnings = (*warnings, _format_missing(missing, len(videos)))
        result = SplitEvaluation(videos, predictions, info, smoothings)
        tuned = result.tune()
        best_smoothing = _format_best(result, tuned)
        notes = [
            *warnings,
            f"scored: {chosen.reason}",
            f"smoothing chosen on the {chosen.split} split: {best_smoothing}",
        ]
        choice = SmoothingChoice(
            tuned.kept.smooth,
            chosen.split,
            CHOSEN_BY,
            tuned.kept.decoder,
            smoothings["none"].look_ahead_s,
            case_hashes=tuple(sorted({hash_case(video.case_id) for video in videos})),
            gain=tuned.gain.to_dict() if tuned.gain and tuned.kept != NO_SMOOTHING else None,
        )
        cases_by_phase = payload.training.cases_by_phase
        card = build_score_card(result.scores[smooth], chosen.split, info.phases, cases_by_phase)
        content = card.to_dict() | {
            "frame_rate": info.frame_rate,
            "causal": info.causal,
            "look_ahead_s": smoothings["none"].look_ahead_s,
            "smooth": smooth,
            "smoothing": choice.to_dict(),
            "smoothing_scores": {name: scores.values for name, scores in result.scores.items()},
            "smoothing_gains": result.compare(),
            "tuning": describe_tuning(tuned),
            "checkpoint_sha256": info.checkpoint_sha256,
            "notes": notes,
            "annotations_sha256": hash_truth(videos),
            "videos_without_prediction": missing,
        }
        _write_scored(folder, result, info, smooth, content)
        report = _build_report(
            request,
            card,
            result.timelines(smooth),
            payload,
            smooth=smooth,
            notes=notes,
            missing=missing,
        )
        write_model_report(folder.report, report)
    if request.keep_choice:
        write_smoothing_choice(request.checkpoint, choice)
    return Evaluation(card, smooth, best_smoothing, chosen.reason, warnings)


def _list_smoothings(
    payload: CheckpointPayload, request: EvaluationRequest
) -> dict[Smooth, Smoothing]:
    """List the kinds of smoothing that the checkpoint allows, ``none`` first."""
    given = request.predictions
    causal = read_info(given).causal if given else is_causal(payload, request.causal)
    look_ahead_s = request.look_ahead_s if causal else None
    smoothings: dict[Smooth, Smoothing] = {}
    for smooth in SMOOTHERS:
        with suppress(UserError):  # raised again if it is wanted
            smoothings[smooth] = Smoothing.of_checkpoint(
                payload, smooth, look_ahead_s, is_asked_for=True
            )
    return smoothings


def _choose_scored(
    payload: CheckpointPayload, request: EvaluationRequest, look_ahead_s: float | None
) -> Smooth:
    """Return the smoothing to score: the one asked for, else the one that is kept.

    A kept one that does not fit is replaced by ``none`` where another is about to be chosen.

    Raises:
        UserError: The checkpoint does not hold what it needs.
    """
    is_asked_for = request.smooth is not None
    smooth = request.smooth or choose_smoothing(payload)
    kept = payload.smoothing
    if request.keep_choice and not is_asked_for and kept and not kept.fits(look_ahead_s):
        return "none"
    Smoothing.of_checkpoint(payload, smooth, look_ahead_s, is_asked_for=is_asked_for)
    return smooth


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


def _write_scored(
    folder: PredictionFolder,
    result: SplitEvaluation,
    info: PredictionInfo,
    smooth: Smooth,
    content: Mapping[str, Any],
) -> None:
    """Write the scores, the predictions at all frame times, and the truth: for ``compare``."""
    kept = replace(info, smooth=smooth, look_ahead_s=content["look_ahead_s"] or 0.0)
    write_predictions(folder.scored, result.final_predictions(smooth), kept)
    write_truth(folder.truth, result.videos, content["split"])
    write_atomically(folder.scores, json.dumps(content, indent=1).encode())


def _build_report(
    request: EvaluationRequest,
    card: ScoreCard,
    timelines: Sequence[VideoTimeline],
    payload: CheckpointPayload,
    *,
    smooth: Smooth,
    notes: Sequence[str],
    missing: Mapping[str, str],
) -> ModelReport:
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


def _format_best(result: SplitEvaluation, tuned: TunedDecoder) -> str:
    if len(result.scores) == 1:
        return "none (the checkpoint was trained on trimmed clips, which show no order)"
    parts = [
        f"{smooth} {' / '.join(f'{scores.values[name]:.4f}' for name in CHOSEN_BY)}"
        for smooth, scores in result.scores.items()
    ]
    return f"{tuned} (frame accuracy / macro-F1 / video Jaccard: {', '.join(parts)})"
