"""Prediction of videos in parallel with Ray Data: one model per actor, one video at a time.

Each finished video is a file of its own, so that a killed prediction resumes with the others.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.errors import PredictionError
from ophnet_ray.inference.predictor import PredictionJob, PredictionResult, VideoPredictor

logger = logging.getLogger(__name__)


class PredictionActor:
    """A ``VideoPredictor`` in a Ray Data actor."""

    def __init__(self, job: PredictionJob, num_threads: int) -> None:
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._predictor = VideoPredictor(job, device, num_threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict one video; return the ``reason`` if it is broken, the ``failure`` if we are."""
        answer = {"video_id": row["video_id"], "reason": "", "failure": ""}
        try:
            self._predictor.write_part(row["video_id"], row["video"])
        except VideoError as error:
            answer["reason"] = str(error)
        except Exception as error:  # returned as a value: Ray Data would add its own advice
            logger.exception("the prediction of %s failed", row["video"])
            cause = f"{type(error).__name__}: {find_cause(error) or 'no message'}"
            answer["failure"] = f"{row['video']}: {cause}"
        return answer


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
    todo = [video_id for video_id, part in parts.items() if not _is_whole(part)]
    if done := len(parts) - len(todo):
        console.say(f"predict  {done} of {len(videos)} videos are predicted already")
    if todo:
        rows = [{"video_id": video_id, "video": videos[video_id]} for video_id in todo]
        try:
            broken |= _predict_rows(job, rows, num_workers, console)
        except RayError as error:
            logger.exception("prediction failed")
            raise PredictionError(find_cause(error) or type(error).__name__) from error
    for video_id, reason in broken.items():
        console.warn(f"{videos[video_id]} is left out: {reason}")
        parts.pop(video_id, None)
    return PredictionResult(parts, broken)


def _predict_rows(
    job: PredictionJob, rows: Sequence[dict[str, str]], num_workers: int, console: Console
) -> dict[str, str]:
    """Predict on actors; return the reasons of broken videos by id."""
    # else the driver prints an error per actor, about a restart after its arguments are gone: that
    # cannot happen here, because the driver holds them
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = os.cpu_count() or 1
    wanted = min(num_workers, len(rows))
    broken = {}
    with (
        connect(Config().replace_flat(num_workers=min(wanted, cores))) as where,
        console.stage("predict", len(rows)) as stage,
    ):
        console.say(where)
        total = ray.cluster_resources()
        gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
        # one CPU stays free, for the reading end of the pipeline
        num_actors = max(min(wanted, cpus - 1), 1)
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            PredictionActor,  # type: ignore[arg-type] # Ray's hint forgets callable classes
            fn_constructor_kwargs={"job": job, "num_threads": max(cores // num_actors, 1)},
            compute=ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=1,
            # several actors share a GPU: each decodes on a CPU of its own meanwhile
            num_gpus=1 / -(-num_actors // gpus) if gpus else None,
        )
        for num_done, row in enumerate(dataset.iter_rows(), start=1):
            if row["failure"]:
                raise PredictionError(row["failure"])
            if row["reason"]:
                broken[row["video_id"]] = row["reason"]
            stage.update(num_done, "videos")
    return broken


def _is_whole(part: Path) -> bool:
    """Return False for a part that is missing, or was damaged after it was written."""
    try:
        pq.read_metadata(part)
    except (OSError, pa.ArrowInvalid):
        return False
    return True
