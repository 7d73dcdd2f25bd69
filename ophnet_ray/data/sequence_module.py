"""Whole videos as a ``LightningDataModule``, for temporal models, without Ray."""

from collections.abc import Sequence

import lightning as L  # noqa: N812 - Lightning's own convention

from ophnet_ray.data.samplers import TrainingSampler, ValidationSampler
from ophnet_ray.data.sequences import (
    ONE_WINDOW,
    LabelledSequence,
    SequenceLoader,
    count_passes,
)


class SequenceDataModule(L.LightningDataModule):
    """Training and validation videos; each worker of a distributed training reads its share.

    Args:
        train: Training sequences.
        val: Validation sequences.
        seed: Of the order.
        begun_with: See ``plan_training_steps``.
        num_passes: Times that an epoch takes each training video (default: ``count_passes``).
    """

    def __init__(
        self,
        train: Sequence[LabelledSequence],
        val: Sequence[LabelledSequence],
        seed: int,
        *,
        begun_with: int | None = None,
        num_passes: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.seed, self.begun_with, self.num_passes = seed, begun_with, num_passes

    def train_dataloader(self) -> SequenceLoader:
        """Build the loader of this worker's share: each training video ``num_passes`` times.

        Videos that the workers cannot share equally are left out, others in each epoch.
        """
        num_replicas = self.trainer.world_size if self.trainer else 1
        num_passes = self.num_passes
        if num_passes is None:
            num_passes = count_passes(len(self.train), self.begun_with or num_replicas)
        ids = [
            f"{each.sequence_id}{f'#{i}' if i else ''}"
            for i in range(num_passes)
            for each in self.train
        ]
        sampler = TrainingSampler(
            ids,
            [ONE_WINDOW] * len(ids),
            1,
            1,
            self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            num_replicas=num_replicas,
            begun_with=self.begun_with,
        )
        return SequenceLoader(self.train, sampler)

    def val_dataloader(self) -> SequenceLoader:
        """Build the loader of every validation video, once over all workers."""
        sampler = ValidationSampler(
            [ONE_WINDOW] * len(self.val),
            1,
            1,
            rank=self.trainer.global_rank if self.trainer else 0,
            num_replicas=self.trainer.world_size if self.trainer else 1,
        )
        return SequenceLoader(self.val, sampler)
