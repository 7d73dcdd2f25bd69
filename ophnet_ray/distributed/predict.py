"""Prediction of videos in parallel: the model of a checkpoint in actors of ``video_pool``.

Each finished video is a file of its own, so that a killed prediction resumes with the others.
"""

from collections.abc import Mapping
from pathlib import Path

from ophnet_ray.console import Console
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.distributed.video_pool import VideoWorkError, work_on_videos
from ophnet_ray.errors import PredictionError
from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult
from ophnet_ray.inference.predictions import is_whole


def predict_videos(
    job: PredictionJob, videos: Mapping[str, str], num_workers: int, console: Console
) -> PredictionResult:
    """Predict the videos that have no whole part yet.

    Args:
        job: Model, settings and folder of the parts.
        videos: Paths by id.
        num_workers: Maximum number of actors; each decodes on one CPU.
        console: Shows the progress.

    Raises:
        PredictionError: The cluster failed.
    """
    parts: dict[str, Path] = {}
    broken: dict[str, str] = {}
    for video_id, video in videos.items():
        try:
            parts[video_id] = job.part_of(video_id, video)
        except VideoError as error:
            broken[video_id] = str(error)
            console.warn(f"{video} is left out: {error}")
    todo = [video_id for video_id, part in parts.items() if not is_whole(part)]
    if done := len(parts) - len(todo):
        console.say(f"predict  {done} of {len(videos)} videos are predicted already")
    try:
        rows = {video_id: videos[video_id] for video_id in todo}
        unreadable = work_on_videos(job, rows, num_workers, console, "predict")
    except VideoWorkError as error:
        raise PredictionError(str(error)) from error
    for video_id, reason in unreadable.items():
        console.warn(f"{videos[video_id]} is left out: {reason}")
        del parts[video_id]
    broken |= unreadable
    return PredictionResult(parts, broken)
