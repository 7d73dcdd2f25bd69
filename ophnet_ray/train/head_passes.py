"""Passes of a temporal model's training: how often each epoch takes each training video."""

from itertools import chain
from pathlib import Path

from ophnet_ray.data.sequences import count_passes
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import find_checkpoints, find_inside_epoch, read_intact


def keep_passes(checkpoints: Path, num_videos: int, num_workers: int) -> int:
    """Return the passes of each epoch of a run: of one that resumes, those that it began with.

    With others, an epoch would have other steps, and the learning rate another schedule.

    Args:
        checkpoints: Folder of the run's checkpoints.
        num_videos: Training videos.
        num_workers: Train workers that the run began with, each with one video per step.
    """
    inside = (read_intact(each.folder) for each in reversed(find_inside_epoch(checkpoints, 0)))
    found = chain(reversed(find_checkpoints(checkpoints)), inside)
    last = next((each for each in found if each is not None), None)
    if last is None:
        return count_passes(num_videos, num_workers)
    payload = read_payload(last.file)
    if payload.head is not None and payload.head.num_passes:
        return payload.head.num_passes
    # checkpoints of earlier versions tell the steps of whole epochs alone
    num_steps = int(payload.history[0]["step"]) if payload.history else 0
    return max(-(-num_steps * num_workers // num_videos), 1)
