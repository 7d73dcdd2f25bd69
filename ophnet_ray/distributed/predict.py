"""Predict videos in parallel with Ray Data: one model an actor, a video at a time.

A finished video is a file of its own, so that a run that was killed goes on with the others.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.video.decoder import VideoError
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.errors import PredictionError, last_line
from ophnet_ray.hashing import hash_file
from ophnet_ray.inference.predictions import PredictionInfo
from ophnet_ray.inference.predictor import PredictionJob, VideoPredictor
from ophnet_ray.models.payload import read_payload

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionResult:
    """The parts of the videos that could be predicted, and why the others could not, by id."""

    parts: dict[str, Path]
    broken: dict[str, str]


def make_job(checkpoint: str, parts: Path, frame_rate: float, causal: bool) -> PredictionJob:
    """Describe a prediction; its parts are found again by the checkpoint's content, not its path.

    Raises:
        UserError: The checkpoint is wrong.
    """
    phases = read_payload(checkpoint).phases
    info = PredictionInfo(phases, frame_rate, hash_file(checkpoint), causal)
    return PredictionJob(str(Path(checkpoint).absolute()), info, str(parts))


class PredictionActor:
    """A ``VideoPredictor`` in a Ray Data actor."""

    def __init__(self, job: PredictionJob, num_threads: int) -> None:
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._predictor = VideoPredictor(job, device, num_threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict one video; a broken one is a row with a reason, and costs no other."""
        try:
            self._predictor.write_part(row["video_id"], row["video"])
        except VideoError as error:
            return {"video_id": row["video_id"], "reason": str(error)}
        return {"video_id": row["video_id"], "reason": ""}


def predict_videos(
    job: PredictionJob, videos: Mapping[str, str], num_workers: int, console: Console
) -> PredictionResult:
    """Predict what has no whole part yet.

    Args:
        job: What to predict with.
        videos: Paths by id.
        num_workers: Most actors; each decodes on one CPU.
        console: For the progress.

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
        console.say(f"predict  {done} of {len(videos)} videos are there already")
    if todo:
        rows = [{"video_id": video_id, "video": videos[video_id]} for video_id in todo]
        try:
            broken |= _predict_rows(job, rows, num_workers, console)
        except RayError as error:
            logger.exception("prediction failed")
            raise PredictionError(last_line(error) or type(error).__name__) from error
    for video_id, reason in broken.items():
        console.warn(f"{videos[video_id]} is left out: {reason}")
        parts.pop(video_id, None)
    return PredictionResult(parts, broken)


def _predict_rows(
    job: PredictionJob, rows: Sequence[dict[str, str]], num_workers: int, console: Console
) -> dict[str, str]:
    """Returns the reasons of the broken ones, by id."""
    # else the driver prints an error for each actor, about what happens when it is restarted after
    # its arguments are gone, which cannot be here: the driver holds them
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
        for done, row in enumerate(dataset.iter_rows(), start=1):
            if row["reason"]:
                broken[row["video_id"]] = row["reason"]
            stage.update(done, "videos")
    return broken


def _is_whole(part: Path) -> bool:
    """Parts appear whole; one that was damaged later is made again."""
    try:
        pq.read_metadata(part)
    except (OSError, pa.ArrowInvalid):
        return False
    return True
