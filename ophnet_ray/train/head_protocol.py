"""Task of a train worker that trains a temporal model on features of whole videos."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import Config, Pooling
from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.sequences import LabelledSequence
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.metrics.timelines import label_times
from ophnet_ray.models.payload import Preprocessing
from ophnet_ray.models.temporal_input import select_values
from ophnet_ray.models.temporal_spec import head_training
from ophnet_ray.recipe_config import RecipeConfig
from ophnet_ray.temporal_config import TemporalInput
from ophnet_ray.train.head_passes import keep_passes
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, eq=False)
class StoredValues:
    """Input of a temporal model, read from the store of features."""

    store: FeatureStore
    content_id: str
    input: TemporalInput

    def __call__(self) -> NDArray[np.float32]:
        """Read the values (N, D)."""
        return select_values(self.store.read(self.content_id), self.input)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderFacts:
    """Statements of a checkpoint on the encoder under a temporal model."""

    backbone: str
    num_classes: int
    phases: tuple[str, ...]
    preprocessing: Preprocessing
    pooling: Pooling


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadData:
    """Videos of a training of a temporal model, by split, and their annotated segments."""

    train: tuple[LabelledSequence, ...]
    val: tuple[LabelledSequence, ...]
    segments: tuple[Segment, ...]
    encoder: EncoderFacts


@dataclass(frozen=True, kw_only=True)
class HeadLoopConfig(TrainLoopConfig):
    """Everything the driver sends to a worker that trains a temporal model.

    ``config.training`` is that of the temporal model, see ``head_training``; ``settings`` are those
    of the user. ``num_passes``: times that an epoch takes each training video. The manifest holds
    the phases alone.
    """

    settings: Config
    data: HeadData
    num_passes: int

    lr_flag: ClassVar[str] = "--temporal_lr"

    @property
    def num_train(self) -> int:
        """Training videos of an epoch, repetitions included; each is a step of one worker."""
        return len(self.data.train) * self.num_passes

    def __repr__(self) -> str:
        """Name the run only, as the base class does."""
        return super().__repr__()


def label_sequence(
    sequence: FeatureSequence,
    values: StoredValues,
    case_id: str,
    segments: Sequence[Segment],
    phases: Sequence[str],
) -> LabelledSequence:
    """Put the annotated segments of a video on the frame times of its features."""
    label_of = {phase: label for label, phase in enumerate(phases)}
    labels = label_times(sequence.times_s, segments, label_of)
    return LabelledSequence(sequence.content_id, case_id, labels, values)


def build_head_loop(
    config: Config,
    data: HeadData,
    phases: Sequence[str],
    resources: Resources,
    run: RunDirectory,
    data_hash: str,
) -> HeadLoopConfig:
    """Build the task of the workers that train a temporal model; nobody watches them yet."""
    return HeadLoopConfig(
        config=replace(
            config,
            training=head_training(config.temporal, config.training),
            recipe=RecipeConfig(),  # the settings are those of the frame model
        ),
        manifest=Manifest(tuple(phases), config.windows, ()),
        resources=resources,
        run=run,
        data_hash=data_hash,
        settings=config,
        data=data,
        num_passes=keep_passes(run.checkpoints, len(data.train), resources.step_workers),
    )
