"""Prediction of videos in parallel with Ray Data: one model per actor, one video at a time.

Each finished video is a file of its own, so that a killed prediction resumes with the others.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from joblib import cpu_count
from ray.data import ActorPoolStrategy
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.hang_guard import DECODER_CRASHED, end_hanging_process
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.errors import PredictionError
from ophnet_ray.inference.predictions import is_whole
from ophnet_ray.inference.predictor import PredictionJob, PredictionResult, VideoPredictor

logger = logging.getLogger(__name__)


class PredictionActor:
    """A ``VideoPredictor`` in a Ray Data actor; its first video loads the model.

    An error in ``__init__`` would end the actor, and Ray Data waits without end for an actor that
    ends so after a restart.
    """

    def __init__(self, job: PredictionJob, num_threads: int) -> None:
        self._job, self._num_threads = job, num_threads
        self._predictor: VideoPredictor | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict one video; return the ``reason`` if it is broken, the ``failure`` if we are."""
        answer = {"video_id": row["video_id"], "reason": "", "failure": ""}
        try:
            if self._predictor is None:
                device = "cuda" if ray.get_gpu_ids() else "cpu"
                self._predictor = VideoPredictor(self._job, device, self._num_threads)
            with end_hanging_process():
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
            console.warn(f"{video} is left out: {error}")
    todo = [video_id for video_id, part in parts.items() if not is_whole(part)]
    if done := len(parts) - len(todo):
        console.say(f"predict  {done} of {len(videos)} videos are predicted already")
    if todo:
        rows = [{"video_id": video_id, "video": videos[video_id]} for video_id in todo]
        try:
            unreadable = _predict_rows(job, rows, num_workers, console)
        except RayError as error:
            logger.exception("prediction failed")
            raise PredictionError(find_cause(error) or type(error).__name__) from error
        for video_id, reason in unreadable.items():
            console.warn(f"{videos[video_id]} is left out: {reason}")
            del parts[video_id]
        broken |= unreadable
    return PredictionResult(parts, broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorShare:
    """Number of actors, and what each takes: one CPU, a share of a GPU, and threads of torch."""

    num_actors: int
    num_gpus: float
    num_threads: int

    @classmethod
    def of_cluster(cls, wanted: int) -> "ActorShare":
        """Divide the connected cluster among up to ``wanted`` actors."""
        total = ray.cluster_resources()
        gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
        # one CPU stays free, for the reading end of the pipeline
        num_actors = max(min(wanted, cpus - 1), 1)
        return cls(
            num_actors=num_actors,
            # several actors share a GPU: each decodes on a CPU of its own meanwhile
            num_gpus=1 / -(-num_actors // gpus) if gpus else 0,
            num_threads=max(cpu_count() // num_actors, 1),
        )


def _predict_rows(
    job: PredictionJob, rows: Sequence[dict[str, str]], num_workers: int, console: Console
) -> dict[str, str]:
    """Predict on actors; return the reasons of broken videos by id."""
    # else the driver prints an error per actor, about a restart after its arguments are gone: that
    # cannot happen here, because the driver holds them
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = cpu_count()
    wanted = min(num_workers, len(rows))
    broken = {}
    with (
        connect(Config().replace_flat(num_workers=min(wanted, cores))) as where,
        console.stage("predict", len(rows)) as stage,
    ):
        console.say(where)
        answers = _predict_each(job, rows, ActorShare.of_cluster(wanted))
        for num_done, row in enumerate(answers, start=1):
            if row["failure"]:
                raise PredictionError(row["failure"])
            if row["reason"]:
                broken[row["video_id"]] = row["reason"]
            stage.update(num_done, "videos")
    return broken


def _predict_each(
    job: PredictionJob, rows: Sequence[dict[str, str]], share: ActorShare
) -> Iterator[dict[str, Any]]:
    """Yield one answer per row; a video at which three processes end is broken.

    A process also ends when the codec does not return, see ``hang_guard``.
    """
    for _ in range(2):
        crashed: list[dict[str, str]] = []
        yield from _predict_in_parallel(job, rows, share, crashed)
        rows = crashed
    for row in rows:
        yield _predict_alone(job, row, share)


def _predict_in_parallel(
    job: PredictionJob,
    rows: Sequence[dict[str, str]],
    share: ActorShare,
    crashed: list[dict[str, str]],
) -> Iterator[dict[str, Any]]:
    """Predict each video once; append the rows whose process ended to ``crashed``."""
    if not rows:
        return
    with warnings.catch_warnings():
        # the only way to set retries: by default Ray Data repeats a video without end
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            PredictionActor,  # type: ignore[arg-type] # Ray's hint forgets callable classes
            fn_constructor_kwargs={"job": job, "num_threads": share.num_threads},
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=min(share.num_actors, len(rows)),
                # a process that ends loses its own video, and none that waits for it
                max_tasks_in_flight_per_actor=1,
            ),
            num_cpus=1,
            num_gpus=share.num_gpus,
            max_task_retries=0,  # the actor itself restarts, for the other videos
        )
    dataset.context.max_errored_blocks = len(rows)  # a video whose process ended gives no row
    missing = {row["video_id"]: row for row in rows}
    for row in dataset.iter_rows():
        del missing[row["video_id"]]
        yield row
    for row in missing.values():
        logger.info("a process ended at %s", row["video"])
    crashed += missing.values()


def _predict_alone(job: PredictionJob, row: dict[str, str], share: ActorShare) -> dict[str, Any]:
    """Predict one video while no other is predicted; it is broken if the process ends again.

    Raises:
        PredictionError: The node of the process was lost, which says nothing about the video.
    """
    predict = ray.remote(num_cpus=1, num_gpus=share.num_gpus, max_retries=0)(predict_row)
    try:
        answer: dict[str, Any] = ray.get(predict.remote(job, share.num_threads, row))
    except (WorkerCrashedError, OutOfMemoryError) as error:
        logger.info("the decoder crashes at %s: %s", row["video"], error)
        return {"video_id": row["video_id"], "reason": DECODER_CRASHED, "failure": ""}
    except NodeDiedError as error:
        raise PredictionError(
            f"the node that predicted {row['video']} was lost three times; the same command resumes"
        ) from error
    return answer


def predict_row(job: PredictionJob, num_threads: int, row: dict[str, str]) -> dict[str, Any]:
    """Predict one video in a process of its own, see ``PredictionActor``."""
    return PredictionActor(job, num_threads)(row)
