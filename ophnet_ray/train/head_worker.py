"""Parts of a train worker that trains a temporal model: module, data, and its checkpoints."""

from collections.abc import Mapping
from typing import NamedTuple

import lightning as L  # noqa: N812 - Lightning's own convention

from ophnet_ray.data.sequence_module import SequenceDataModule
from ophnet_ray.models.payload import CheckpointPayload, describe_settings
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.models.temporal_fit import build_head_module
from ophnet_ray.models.temporal_module import TemporalModule
from ophnet_ray.models.temporal_spec import HeadPayload
from ophnet_ray.models.training_summary import summarise_segments
from ophnet_ray.train.epoch_callback import EpochCallback
from ophnet_ray.train.head_protocol import HeadLoopConfig
from ophnet_ray.train.heartbeat import Heartbeat
from ophnet_ray.train.resume_point import ResumePoint
from ophnet_ray.train.worker_place import WorkerPlace


class HeadFit(NamedTuple):
    """Module and data of a worker, and the callback that keeps its epochs."""

    module: TemporalModule
    data: SequenceDataModule
    callback: "HeadEpochCallback"


def build_head_fit(
    loop: HeadLoopConfig, resume: ResumePoint, heartbeat: Heartbeat, place: WorkerPlace
) -> HeadFit:
    """Build the fit of a worker's share of the videos."""
    data, settings = loop.data, loop.settings
    module = build_head_module(
        data.train, data.val, len(loop.manifest.phases), settings.temporal, settings.training
    )
    videos = SequenceDataModule(
        data.train,
        data.val,
        settings.training.seed,
        begun_with=loop.resources.begun_with,
        num_passes=loop.num_passes,
    )
    callback = HeadEpochCallback(
        loop,
        resume.finished,
        heartbeat,
        place,
        lambda: summarise_segments(data.segments, loop.manifest.phases),
    )
    return HeadFit(module, videos, callback)


class HeadEpochCallback(EpochCallback):
    """Checkpoints and reports of a temporal model; without its encoder, which never changes."""

    _loop: HeadLoopConfig

    def describe_speed(self, trainer: L.Trainer, module: PhaseModule) -> dict[str, float]:
        """Return nothing: its steps are videos of any length."""
        return {}

    def rank_by(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the score by which an epoch is ranked; all scores are of frames here."""
        if not self._loop.config.training.scores_frames:
            return super().rank_by(metrics)
        frames = {
            "val_frame_acc": metrics["val_acc"],
            "val_frame_macro_f1": metrics["val_macro_f1"],
        }
        return frames | super().rank_by(frames)

    def describe_model(self, module: PhaseModule) -> CheckpointPayload:
        """Return the payload of a temporal model, without history and states of workers.

        Raises:
            TypeError: The module is another.
        """
        if not isinstance(module, TemporalModule):
            raise TypeError(f"expected a TemporalModule, not {type(module).__name__}")
        loop = self._loop
        encoder, phases = loop.data.encoder, loop.manifest.phases
        return CheckpointPayload(
            phases=tuple(phases),
            preprocessing=encoder.preprocessing,
            config=describe_settings(loop.settings),
            data_hash=loop.data_hash,
            history=(),
            training=self.training,
            window_counts=module.frame_counts,
            pooling=encoder.pooling,
            head=HeadPayload(
                spec=module.head.spec,
                backbone=encoder.backbone,
                num_encoder_classes=encoder.num_classes,
                encoder_phases=encoder.phases,
                num_passes=loop.num_passes,
            ),
        )
