"""Prediction in this process, as the actors of a cluster do it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ophnet_ray.cli.given_models import find_models
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.inference.ensemble import gather_members, hash_ensemble, read_models
from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult, build_job
from ophnet_ray.inference.predictions import (
    VideoPrediction,
    is_whole,
    read_info,
    read_predictions,
    write_predictions,
)


def predict_here(job: PredictionJob, videos) -> PredictionResult:
    """Predict the videos without a whole part; what ``predict_into`` and ``evaluate`` call."""
    work = job.build_worker("cpu", 1)
    parts, broken = {}, {}
    for video_id, video in videos.items():
        try:
            parts[video_id] = job.part_of(video_id, video)
            if not is_whole(parts[video_id]):
                work(video_id, video)
        except VideoError as error:
            broken[video_id] = str(error)
            parts.pop(video_id, None)
    return PredictionResult(parts, broken)


def sign_predictions(path: Path, given: Sequence[str | Path]) -> None:
    """Name the model of ``--checkpoint`` in a file of predictions that no model made."""
    if not path.exists() or set((info := read_info(path)).checkpoint_sha256) != {"f"}:
        return
    files = find_models([str(each) for each in given])
    model = read_models(files[0]) if len(files) == 1 else gather_members(files)
    rows = list(read_predictions(path))
    write_predictions(path, rows, replace(info, weights_sha256=hash_ensemble(model)))


def predict_one(
    checkpoint: Path, video: Path, folder: Path, frame_rate=2.0, *, causal=False, tta=()
) -> VideoPrediction:
    """Predict a video with a checkpoint or an ensemble, and read its part back."""
    job = build_job(str(checkpoint), folder, frame_rate, causal, tta)
    found = predict_here(job, {"v": str(video)})
    return next(read_predictions(found.parts["v"]))[0]
