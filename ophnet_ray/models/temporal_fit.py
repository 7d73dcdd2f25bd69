"""Training of a temporal model on labelled sequences, in this process, without Ray."""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from numpy.typing import NDArray

from ophnet_ray.config import TrainingConfig
from ophnet_ray.data.sequence_module import SequenceDataModule
from ophnet_ray.data.sequences import LabelledSequence, measure_sequences
from ophnet_ray.errors import TrainingError
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.lightning_trainer import build_lightning_trainer
from ophnet_ray.models.losses import balance_phases
from ophnet_ray.models.temporal_module import TemporalModule
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.models.temporal_spec import TemporalSpec, head_training
from ophnet_ray.temporal_config import TemporalConfig

_TRAINING = TrainingConfig()


def build_head_module(
    train: Sequence[LabelledSequence],
    val: Sequence[LabelledSequence],
    num_classes: int,
    temporal: TemporalConfig,
    training: TrainingConfig,
) -> TemporalModule:
    """Build the module of the settings; the same seed gives the same first weights.

    Args:
        train: Training sequences: they give the normalisation and the weights of the phases.
        val: Validation sequences.
        num_classes: Number of phases, K.
        temporal: Settings of the model; ``temporal`` is not ``none``.
        training: Seed, weights of the phases, and schedule.
    """
    torch.manual_seed(training.seed)
    measured = measure_sequences(train, num_classes)
    model = TemporalModel(TemporalSpec.of_config(temporal, len(measured.mean), num_classes))
    model.mean.copy_(torch.from_numpy(measured.mean))
    model.std.copy_(torch.from_numpy(measured.deviation))
    return TemporalModule(
        model,
        lr=temporal.temporal_lr,
        lr_schedule=training.lr_schedule,
        warmup_ratio=temporal.temporal_warmup_ratio,
        balance=balance_phases(measured.counts, training.class_weights),
        smoothing=temporal.smoothing_loss,
        num_val_cases=max(len({sequence.case_id for sequence in val}), 1),
    )


def fit_head(
    train: Sequence[LabelledSequence],
    val: Sequence[LabelledSequence],
    num_classes: int,
    temporal: TemporalConfig,
    training: TrainingConfig = _TRAINING,
) -> TemporalModel:
    """Train a temporal model and return that of the best epoch, in evaluation mode.

    The best epoch is that with the highest macro-F1 of the validation frames; without validation
    sequences it is the last one.

    Args:
        train: Training sequences, at least one.
        val: Validation sequences; may be empty.
        num_classes: Number of phases, K.
        temporal: Settings of the model; ``temporal`` is not ``none``.
        training: Seed, weights of the phases, schedule and device.

    Raises:
        TrainingError: The weights are not finite.
    """
    # unannotated ones would rank all epochs as equal
    val = [sequence for sequence in val if (sequence.labels >= 0).any()]
    module = build_head_module(train, val, num_classes, temporal, training)
    best = _KeepBest()
    with tempfile.TemporaryDirectory(prefix="ophnet-head-") as folder:
        trainer = build_lightning_trainer(
            head_training(temporal, training), training.use_gpu == "true", [best], Path(folder)
        )
        trainer.fit(module, datamodule=SequenceDataModule(train, val, training.seed))
    if best.weights is not None:
        module.head.load_state_dict(best.weights)
    if not all(bool(weights.isfinite().all()) for weights in module.head.parameters()):
        raise TrainingError(
            f"the weights of the temporal model are not finite: lower --temporal_lr "
            f"{temporal.temporal_lr:g}"
        )
    return module.head.cpu().eval()


def predict_sequence(model: TemporalModel, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities (N, K) of the values (N, D) of a whole video."""
    with torch.inference_mode():
        inputs = torch.from_numpy(values)[None].to(model.mean.device)
        probabilities = model(inputs)[-1, 0].float().softmax(dim=1)
    return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)


class _KeepBest(CheckpointCallback):
    """Callback that keeps the weights of the best epoch in memory."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] | None = None
        self._rank = (-np.inf, -np.inf)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if the epoch is the best so far."""
        if not isinstance(pl_module, TemporalModule):
            raise TypeError(f"expected a TemporalModule, not {type(pl_module).__name__}")
        metrics = pl_module.epoch_metrics
        if "val_loss" in metrics and rank_epoch(metrics) > self._rank:
            self._rank = rank_epoch(metrics)
            self.weights = copy.deepcopy(pl_module.head.state_dict())
