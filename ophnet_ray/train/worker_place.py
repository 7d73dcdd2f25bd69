"""Place of a train worker: its rank, and its ways to the other workers and to those who watch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WorkerPlace:
    """Place of a train worker.

    Attributes:
        rank: Number of the worker, from 0.
        num_workers: Number of workers.
        is_alone: True without a group of Ray Train: in this process, with one worker.
        broadcast: Returns on all workers what rank 0 gives; called by all of them.
        report: Reports the record of an epoch, on rank 0 with the folder of its checkpoint or None;
            called by all of them.
        read_notice: Returns what the cluster announces of a node that goes away soon, or None.
    """

    rank: int
    num_workers: int
    is_alone: bool
    broadcast: Callable[[Any], Any]
    report: Callable[[Mapping[str, float], Path | None], None]
    read_notice: Callable[[], Any]


def place_in_group() -> WorkerPlace:
    """Return the place of this worker in its group of Ray Train."""
    # a worker outside of Ray Train does without the second of CPU that it takes to load
    import ray.train.collective

    context = ray.train.get_context()
    return WorkerPlace(
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        is_alone=False,
        broadcast=ray.train.collective.broadcast_from_rank_zero,
        report=_report_to_ray,
        read_notice=ray.train.get_preemption_info,
    )


def place_alone(
    report: Callable[[Mapping[str, float]], None], read_notice: Callable[[], Any] = lambda: None
) -> WorkerPlace:
    """Return the place of a worker that trains alone in this process.

    Args:
        report: Receives the record of each epoch.
        read_notice: Returns what is announced of this machine's end, or None.
    """
    return WorkerPlace(
        rank=0,
        num_workers=1,
        is_alone=True,
        broadcast=lambda value: value,
        report=lambda record, _: report(record),
        read_notice=read_notice,
    )


def _report_to_ray(record: Mapping[str, float], checkpoint: Path | None) -> None:
    import ray.train

    if checkpoint is None:
        ray.train.report(dict(record))
        return
    ray.train.report(
        dict(record),
        checkpoint=ray.train.Checkpoint.from_directory(str(checkpoint)),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )
