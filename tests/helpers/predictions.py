"""Prediction in this process, as the actors of a cluster do it."""

from pathlib import Path

from ophnet_ray.data.video.container import VideoError
from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult, build_job
from ophnet_ray.inference.predictions import VideoPrediction, is_whole, read_predictions


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


def predict_one(
    checkpoint: Path, video: Path, folder: Path, frame_rate=2.0, *, causal=False, tta=()
) -> VideoPrediction:
    """Predict a video with a checkpoint or an ensemble, and read its part back."""
    job = build_job(str(checkpoint), folder, frame_rate, causal, tta)
    found = predict_here(job, {"v": str(video)})
    return next(read_predictions(found.parts["v"]))[0]
