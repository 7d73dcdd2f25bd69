"""The checkpoint from which all workers of a run resume: the first one chooses, all take it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ophnet_ray.models.checkpoint_file import has_finite_weights
from ophnet_ray.models.checkpoints import (
    Checkpoint,
    VerifiedCheckpoints,
    delete_leftovers,
    locate_checkpoint,
    set_aside,
    verify_checkpoints,
)

TIMEOUT_S = 180.0
"""Seconds until a checkpoint must be seen by all nodes: shared folders remember for a minute what
they have listed."""
POLL_S = 0.5

logger = logging.getLogger(__name__)


class ResumePosition(NamedTuple):
    """Epoch and step after which a run resumes, and the size of the file.

    Small, since Ray broadcasts at most 1,000 bytes.
    """

    epoch: int
    step: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The checkpoint to resume from.

    Attributes:
        last: The checkpoint, which may lie inside an epoch; None for a new run.
        finished: Intact checkpoints of whole epochs, oldest first; on rank 0, which prunes them.
        damaged: Folders to which damaged checkpoints were moved; on rank 0.
    """

    last: Checkpoint | None = None
    finished: tuple[Checkpoint, ...] = ()
    damaged: tuple[Path, ...] = ()


def find_resume_point(checkpoints: Path, num_workers: int) -> ResumePoint:
    """Return the last checkpoint inside the unfinished epoch, else the last of a whole epoch.

    One inside an epoch holds the state of each worker: another number of workers cannot use it.

    Damaged checkpoints, and those with a weight that is not finite, are moved out of the way, and
    leftovers of a killed writer deleted.
    """
    delete_leftovers(checkpoints)
    verified = _leave_finite(checkpoints, verify_checkpoints(checkpoints))
    finished = verified.finished
    epoch = finished[-1].epoch + 1 if finished else 0
    last = verified.last_inside(epoch)
    if last is not None and last.num_workers not in (0, num_workers):
        logger.info("%s is of another number of workers and not used", last.folder)
        last = None
    last = last or (finished[-1] if finished else None)
    if last is None:
        return ResumePoint(damaged=verified.damaged)
    done = f"step {last.step} of epoch {epoch + 1}" if last.step else f"epoch {epoch}"
    logger.info("resuming after %s from %s", done, last.folder)
    return ResumePoint(last, finished, verified.damaged)


def _leave_finite(checkpoints: Path, found: VerifiedCheckpoints) -> VerifiedCheckpoints:
    """Move away the checkpoints with a weight that is not finite; earlier versions kept such."""
    bad = [each for each in (*found.finished, *found.unfinished) if not _is_finite(each)]
    if not bad:
        return found
    return VerifiedCheckpoints(
        tuple(each for each in found.finished if each not in bad),
        tuple(each for each in found.unfinished if each not in bad),
        (*found.damaged, *(set_aside(checkpoints, each.folder) for each in bad)),
    )


def _is_finite(checkpoint: Checkpoint) -> bool:
    is_finite = has_finite_weights(checkpoint.file)
    if not is_finite:
        logger.warning("checkpoint %s: a weight is not finite", checkpoint.folder.name)
    return is_finite


def agree_on_resume_point(
    checkpoints: Path,
    rank: int,
    broadcast: Callable[[ResumePosition | None], ResumePosition | None],
    num_workers: int = 1,
    timeout_s: float = TIMEOUT_S,
) -> ResumePoint:
    """Return the choice of rank 0, once this worker sees its file.

    The other workers neither list nor hash: on a shared folder they may not see yet what rank 0
    wrote, and workers that resume from different epochs wait for each other for ever.

    Args:
        checkpoints: Folder of the run's checkpoints.
        rank: This worker.
        broadcast: Returns on all workers what rank 0 gives.
        num_workers: Workers of the run.
        timeout_s: Seconds to wait for the file.

    Raises:
        OSError: The file does not appear.
    """
    if rank == 0:
        own = find_resume_point(checkpoints, num_workers)
        broadcast(_position_of(own.last))
        return own
    chosen = broadcast(None)
    if chosen is None:
        return ResumePoint()
    last = locate_checkpoint(checkpoints, chosen.epoch, chosen.step)
    _wait_for(last.file, chosen.size_bytes, rank, timeout_s)
    return ResumePoint(last)


def _position_of(last: Checkpoint | None) -> ResumePosition | None:
    if last is None:
        return None
    return ResumePosition(last.epoch, last.step, last.file.stat().st_size)


def _wait_for(file: Path, size_bytes: int, rank: int, timeout_s: float) -> None:
    ends_s = time.monotonic() + timeout_s
    while not (file.is_file() and file.stat().st_size == size_bytes):
        if time.monotonic() > ends_s:
            raise OSError(
                f"train worker {rank} does not see {file}, from which worker 0 resumes; "
                "--storage_path must be a folder that all nodes share, or a bucket"
            )
        time.sleep(POLL_S)
