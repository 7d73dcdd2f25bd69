"""Work on videos in parallel with Ray Data: one model per actor, one video at a time."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from joblib import cpu_count
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.hang_guard import DECODER_CRASHED, end_hanging_process
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.environment import hide_actor_errors
from ophnet_ray.distributed.failures import find_cause
from ophnet_ray.distributed.lone_task import CrashError, NodeLostError, run_alone
from ophnet_ray.errors import ReportedError

logger = logging.getLogger(__name__)


class VideoWorkError(ReportedError):
    """Work on videos cannot continue. ``str(error)`` is the cause in one line."""


class VideoJob(Protocol):
    """A job that is done for one video after the other; it is sent to every actor."""

    def build_worker(self, device: str, num_threads: int) -> Callable[[str, str], None]:
        """Load a model on a device of torch; return the work for a video, by id and path.

        The work writes its result, whole or not at all, and raises ``VideoError`` where the video
        is broken.
        """


class VideoActor:
    """A worker of a job in a Ray Data actor; its first video loads the model.

    An error in ``__init__`` would end the actor, and Ray Data waits without end for an actor that
    ends so after a restart.
    """

    def __init__(self, job: VideoJob, num_threads: int) -> None:
        self._job, self._num_threads = job, num_threads
        self._work: Callable[[str, str], None] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on one video; return the ``reason`` if it is broken, the ``failure`` if we are."""
        answer = {"video_id": row["video_id"], "reason": "", "failure": ""}
        try:
            if self._work is None:
                device = "cuda" if ray.get_gpu_ids() else "cpu"
                self._work = self._job.build_worker(device, self._num_threads)
            with end_hanging_process():
                self._work(row["video_id"], row["video"])
        except VideoError as error:
            answer["reason"] = str(error)
        except Exception as error:  # returned as a value: Ray Data would add its own advice
            logger.exception("the work on %s failed", row["video"])
            cause = f"{type(error).__name__}: {find_cause(error) or 'no message'}"
            answer["failure"] = f"{row['video']}: {cause}"
        return answer


def work_on_videos(
    job: VideoJob,
    videos: Mapping[str, str],
    num_workers: int,
    console: Console,
    stage_name: str,
    *,
    num_sharing: int = 1,
) -> dict[str, str]:
    """Do a job for each video, on the connected cluster, else on one that is joined for it.

    Args:
        job: The work.
        videos: Paths by id.
        num_workers: Maximum number of actors; each decodes on one CPU.
        console: Shows the progress.
        stage_name: Name of the progress.
        num_sharing: Runs that share the cluster side by side, this one included.

    Returns:
        Reasons of broken videos, by id.

    Raises:
        VideoWorkError: The cluster or the job failed.
    """
    rows = [{"video_id": video_id, "video": video} for video_id, video in videos.items()]
    if not rows:
        return {}
    hide_actor_errors()
    wanted = min(num_workers, len(rows))
    broken = {}
    try:
        with _cluster(wanted) as where, console.stage(stage_name, len(rows)) as stage:
            if where:
                console.say(where)
            share = ActorShare.of_cluster(ray.cluster_resources(), wanted, num_sharing)
            answers = _work_on_each(job, rows, share)
            for num_done, row in enumerate(answers, start=1):
                if row["failure"]:
                    raise VideoWorkError(row["failure"])
                if row["reason"]:
                    broken[row["video_id"]] = row["reason"]
                stage.update(num_done, "videos")
    except RayError as error:
        logger.exception("the work on videos failed")
        raise VideoWorkError(find_cause(error) or type(error).__name__) from error
    return broken


def _cluster(num_actors: int) -> AbstractContextManager[str]:
    """Join a cluster for so many actors, unless this process is in one."""
    if ray.is_initialized():
        return nullcontext("")
    return connect(Config().replace_flat(num_workers=min(num_actors, cpu_count())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorShare:
    """Number of actors, and what each takes: one CPU, a share of a GPU, and threads of torch."""

    num_actors: int
    num_gpus: float
    num_threads: int

    @classmethod
    def of_cluster(
        cls, total: Mapping[str, float], wanted: int, num_sharing: int = 1
    ) -> "ActorShare":
        """Divide a cluster among up to ``wanted`` actors of each of the runs that share it.

        Args:
            total: Resources of the cluster, as Ray names them.
            wanted: Actors of one run, at most.
            num_sharing: Runs that share the cluster side by side. Each takes a part of its GPUs:
                the train workers of the others may hold the rest.
        """
        gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
        # one CPU stays free, for the reading end of the pipeline
        num_actors = max(min(wanted, cpus - 1), 1)
        return cls(
            num_actors=num_actors,
            # several actors share a GPU: each decodes on a CPU of its own meanwhile
            num_gpus=1 / -(-num_actors * num_sharing // gpus) if gpus else 0,
            num_threads=max(cpu_count() // num_actors, 1),
        )


def _work_on_each(
    job: VideoJob, rows: Sequence[dict[str, str]], share: ActorShare
) -> Iterator[dict[str, Any]]:
    """Yield one answer per row; a video at which three processes end is broken.

    A process also ends when the codec does not return, see ``hang_guard``.
    """
    for _ in range(2):
        crashed: list[dict[str, str]] = []
        yield from _work_in_parallel(job, rows, share, crashed)
        rows = crashed
    for row in rows:
        yield _work_alone(job, row, share)


def _work_in_parallel(
    job: VideoJob,
    rows: Sequence[dict[str, str]],
    share: ActorShare,
    crashed: list[dict[str, str]],
) -> Iterator[dict[str, Any]]:
    """Work on each video once; append the rows whose process ended to ``crashed``."""
    if not rows:
        return
    with warnings.catch_warnings():
        # the only way to set retries: by default Ray Data repeats a video without end
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            VideoActor,  # type: ignore[arg-type] # Ray's hint forgets callable classes
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


def _work_alone(job: VideoJob, row: dict[str, str], share: ActorShare) -> dict[str, Any]:
    """Work on one video while no other is worked on; it is broken if the process ends again.

    Raises:
        VideoWorkError: The node of the process was lost, which says nothing about the video.
    """
    try:
        return run_alone(work_on_row, share.num_gpus, job, share.num_threads, row)
    except CrashError:
        logger.warning("the decoder crashes at %s", row["video"])
        return {"video_id": row["video_id"], "reason": DECODER_CRASHED, "failure": ""}
    except NodeLostError as error:
        raise VideoWorkError(
            f"the node that worked on {row['video']} was lost three times; the same command resumes"
        ) from error


def work_on_row(job: VideoJob, num_threads: int, row: dict[str, str]) -> dict[str, Any]:
    """Work on one video in a process of its own, see ``VideoActor``."""
    return VideoActor(job, num_threads)(row)
