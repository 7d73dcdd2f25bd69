"""Payloads and checkpoint files as a training run writes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ophnet_ray.config import Config
from ophnet_ray.metrics.cell_counts import CellCounts
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import PAYLOAD_KEY, CheckpointPayload, Preprocessing
from ophnet_ray.models.training_summary import TrainingSummary

NO_WINDOWS = object()
"""Default of the counts: no window of a single case."""


def make_payload(
    num_phases: int = 2, *, confusion_by_case=NO_WINDOWS, segments_by_case=None, **changes
) -> CheckpointPayload:
    """The payload of a run before its first epoch, with the given fields replaced.

    The counts by case are arrays (C, K, K), or None.
    """
    if confusion_by_case is NO_WINDOWS:
        confusion_by_case = np.zeros((1, num_phases, num_phases), dtype=np.int64)
    windows = Config().windows
    payload = CheckpointPayload(
        phases=tuple(str(label) for label in range(num_phases)),
        preprocessing=Preprocessing(
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            mask=Config().model.mask,
            image_size=windows.image_size,
            window_size=windows.window_size,
            stride=windows.stride,
        ),
        config=Config().to_flat(),
        data_hash="0" * 64,
        history=(),
        training=TrainingSummary(
            case_hashes=(),
            cases_by_phase=(1,) * num_phases,
            val_case_hashes=(),
            dynamics=None,
        ),
        window_counts=as_cells(confusion_by_case),
        segment_counts=as_cells(segments_by_case),
    )
    return replace(payload, **changes)


def as_cells(counts: np.ndarray | None) -> CellCounts | None:
    """Counts by case without those that are 0."""
    return None if counts is None else CellCounts.of_dense(counts)


def save_checkpoint(
    path: Path,
    payload: CheckpointPayload,
    network: SurgicalPhaseClassificationModel | None = None,
) -> None:
    """Write a checkpoint file: the payload, and the weights of the network if there is one."""
    weights = {} if network is None else network.state_dict()
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": state, PAYLOAD_KEY: payload.to_dict()}, path)
