"""Predictions and annotations of a split → scores over all annotated frames, and their page."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.index import frames_between
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import (
    AnnotatedVideo,
    group_by_video,
    match_predictions,
)
from ophnet_ray.inference.ensemble import hash_ensemble, is_ensemble, read_models
from ophnet_ray.inference.ensemble_payload import (
    check_held_out,
    check_keepable,
    keep_choices,
    read_model,
)
from ophnet_ray.inference.ensemble_replacement import check_unchanged
from ophnet_ray.inference.evaluation_files import EvaluationOutcome, write_evaluation
from ophnet_ray.inference.exam_looks import LookCount, find_test_rows, take_look
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.prediction_job import PredictVideos, build_job, is_causal
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
    temper_prediction,
)
from ophnet_ray.inference.seen_cases import find_trained_cases
from ophnet_ray.inference.smoothing import SMOOTHERS, Smooth, Smoothing
from ophnet_ray.inference.split_choice import (
    SplitChoice,
    choose_split,
    format_few,
    warn_of_choosing_cases,
    warn_of_member_choosing_cases,
    warn_of_seen_cases,
    warn_of_tempering_cases,
)
from ophnet_ray.inference.split_choices import SplitChoices, choose_on_split
from ophnet_ray.inference.split_evaluation import NO_FRAME_TIME, SplitEvaluation
from ophnet_ray.inference.trained_model import choose_smoothing
from ophnet_ray.inference.tta import Tta
from ophnet_ray.inference.window_stream import frame_times
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.metrics.scoring import build_score_card
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.wording import say_count

MAX_NAMED = 3
"""Videos or cases that a warning names."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A model and the flags of ``evaluate``.

    ``checkpoint``: path of a checkpoint, or of ``ensemble.yaml``.
    """

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
    keep_temperature: bool = False
    """Write the chosen temperature into the checkpoint."""
    look_ahead_s: float = 0.0
    """Seconds after each time that smoothing may look ahead, if ``causal``."""
    tta: tuple[Tta, ...] = ()
    """Kinds of test-time augmentation."""
    given: str = ""
    """Path or URI that the user gave, e.g. of a run; empty: ``checkpoint``."""
    gathered_sha256: str = ""
    """Identity of the ensemble that this command has written into ``checkpoint``."""


@dataclass(frozen=True)
class Evaluation:
    """Scores under one smoothing, and what was found beside them, in words.

    ``best_smoothing``, ``calibration``: what the split chooses; ``split`` states in one line which
    rows were scored, and why; ``warnings`` are about the scores; ``looks``: of test cases.
    """

    card: ScoreCard
    smooth: Smooth
    best_smoothing: str
    split: str
    warnings: tuple[str, ...]
    calibration: str = ""
    looks: LookCount | None = None


def evaluate(
    folder: PredictionFolder,
    request: EvaluationRequest,
    segments: Sequence[Segment],
    predict: PredictVideos,
) -> Evaluation:
    """Score a checkpoint on a split; write the scores, what was scored, and the page.

    Test cases choose nothing: no smoothing and no temperature. Each look at them is counted before
    anything of it is written.

    Args:
        folder: Output.
        request: What to score, and how.
        segments: All rows of the annotation CSV.
        predict: Predicts the videos of a job that have no part yet.

    Raises:
        UserError: The checkpoint, the predictions or the annotations are wrong, or test cases are
            to choose.
    """
    payload, choosing = read_model(request.checkpoint)
    check_held_out(request.checkpoint, payload, request.split, segments)
    smoothings = _list_smoothings(payload, request)
    smooth = _choose_scored(payload, request, smoothings["none"].look_ahead_s)
    chosen = choose_split(
        segments, request.split, payload, is_ensemble=is_ensemble(request.checkpoint)
    )
    exam = find_test_rows(segments, chosen.segments, request.split)
    if exam:
        smoothings = {name: smoothings[name] for name in dict.fromkeys(("none", smooth))}
    _check_choice(request, exam, chosen, payload)
    videos = group_by_video(chosen.segments, payload.phases)
    warnings = warn_of_seen_cases(chosen, payload) + warn_of_member_choosing_cases(chosen, choosing)
    if smooth != "none" and request.smooth in (None, "tuned"):
        warnings += warn_of_choosing_cases(chosen, payload)
    warnings += warn_of_tempering_cases(chosen, payload)
    if request.predictions is None:
        _check_frame_rate(chosen.segments, request.frame_rate)
    with folder.locked():
        check_unchanged(request.checkpoint, request.gathered_sha256)
        info, predictions, missing = _collect_predictions(folder, request, videos, payload, predict)
        if missing:
            warnings = (*warnings, _format_missing(missing, len(videos)))
        result = SplitEvaluation(videos, predictions, info, smoothings, payload.temperature)
        choices = choose_on_split(result, chosen.split, payload.temperature, is_exam=bool(exam))
        card = build_score_card(
            result.scores[smooth], chosen.split, info.phases, payload.training.cases_by_phase
        )
        outcome = EvaluationOutcome(
            checkpoint=request.checkpoint,
            source=request.source,
            payload=payload,
            result=result,
            info=info,
            card=card,
            smooth=smooth,
            choices=choices,
            missing=missing,
            remarks=(*warnings, f"scored: {chosen.reason}"),
            # nothing of a look is shown before it is counted
            looks=take_look(
                "evaluate",
                exam,
                request.checkpoint,
                folder.path,
                given=request.given,
                checkpoint_sha256=info.checkpoint_sha256,
            )
            if exam
            else None,
        )
        write_evaluation(folder, outcome)
        _keep(request, choices)
    return Evaluation(
        card,
        smooth,
        choices.best_smoothing,
        chosen.reason,
        warnings,
        choices.best_temperature,
        outcome.looks,
    )


def _check_choice(
    request: EvaluationRequest,
    exam: Sequence[Segment],
    chosen: SplitChoice,
    payload: CheckpointPayload,
) -> None:
    """Refuse to choose on test and training cases, or for a checkpoint that cannot be written."""
    flags = {"--keep_choice": request.keep_choice, "--keep_temperature": request.keep_temperature}
    given = [flag for flag, is_given in flags.items() if is_given]
    if not given:
        return
    if exam:
        raise UserError(
            f"{given[0]}: {len({row.case_id for row in exam})} of the cases to score are test "
            "cases, which choose nothing; choose with --split val"
        )
    if seen := find_trained_cases(chosen.segments, payload):
        of_what = "a member" if is_ensemble(request.checkpoint) else "the model"
        raise UserError(
            f"{given[0]}: {len(seen)} of the cases to score were in the training of {of_what} "
            f"({format_few(seen)}); training cases choose nothing: give cases that no model has "
            "seen, e.g. with --split val"
        )
    check_keepable(request.checkpoint, request.given or request.checkpoint)


def _keep(request: EvaluationRequest, choices: SplitChoices) -> None:
    """Write what is to be kept into the checkpoint."""
    smoothing = choices.smoothing if request.keep_choice else None
    temperature = choices.temperature if request.keep_temperature else None
    if smoothing is not None or temperature is not None:
        keep_choices(request.checkpoint, smoothing, temperature)


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
    """Read the given predictions, or predict; probabilities are at temperature 1.

    Returns:
        Settings; predictions by video id; the reason of each video without one, by its id.
    """
    if request.predictions is not None:
        info = read_info(request.predictions)
        if info.phases != payload.phases:
            raise UserError(
                f"--predictions {request.predictions}: its phases are not those of the checkpoint"
            )
        _check_same_model(request.predictions, info, request.checkpoint, payload)
        given = [prediction for prediction, _ in read_predictions(request.predictions)]
        matched = match_predictions(videos, given, request.predictions.name)
        untempered = {
            video_id: temper_prediction(prediction, 1 / info.temperature)
            for video_id, prediction in matched.found.items()
        }
        return replace(info, temperature=1.0), untempered, matched.missing
    job = build_job(
        request.checkpoint, folder.parts, request.frame_rate, request.causal, request.tta
    )
    result = predict(job, {video.video_id: video.video for video in videos})
    if not result.parts:
        raise UserError(f"no video can be read (of {len(videos)})")
    found = [next(iter(read_predictions(part)))[0] for part in result.parts.values()]
    return job.info, {prediction.video_id: prediction for prediction in found}, result.broken


def _check_same_model(
    file: Path, info: PredictionInfo, checkpoint: str, payload: CheckpointPayload
) -> None:
    """Refuse predictions of another model: its smoothing, temperature and split would be wrong.

    Files of earlier versions know their model by its file alone, which a kept choice changes.
    """
    ensemble = read_models(checkpoint)
    if info.weights_sha256:
        is_same = info.weights_sha256 == hash_ensemble(ensemble)
    else:
        has_choice = payload.smoothing is not None or payload.temperature_choice is not None
        is_same = has_choice or info.checkpoint_sha256 == ensemble.sha256
    if not is_same:
        raise UserError(
            f"--predictions {file}: another model than --checkpoint {checkpoint} has made them; "
            "give that one, or leave --predictions out"
        )


def _format_missing(missing: Mapping[str, str], num_videos: int) -> str:
    named = [f"{video_id}: {reason}" for video_id, reason in list(missing.items())[:MAX_NAMED]]
    more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return (
        f"no prediction for {len(missing)} of {say_count(num_videos, 'video')}: wrong in "
        f"every frame ({'; '.join(named)}{more})"
    )
