"""The order of windows in real Ray Train workers, told by the pixels that reach the model."""

import ophnet_ray  # isort: skip  # noqa: F401 - before lightning, see the package's docstring

import zlib
from typing import Any

import lightning as L  # noqa: N812
import pytest
import ray.train
import torch.distributed
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer

from ophnet_ray import OphNetDataModule, SurgicalPhaseClassificationModel, SurgicalPhaseModule
from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster import connect
from tests.helpers.videos import write_color_dataset

pytestmark = pytest.mark.integration

NUM_EPOCHS, GLOBAL_BATCH = 5, 4
Seen = dict[tuple[int, int], list[int]]
"""Checksums of windows by epoch and step."""


class Recorder(L.Callback):
    """Keep a checksum of each window, by epoch and step; stop after an epoch when told to."""

    def __init__(self, last_epoch: int, checkpoint: str) -> None:
        self.seen: Seen = {}
        self._last_epoch, self._checkpoint = last_epoch, checkpoint

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        images = batch["image"].numpy()
        place = trainer.current_epoch, batch_idx
        self.seen[place] = [zlib.crc32(image.tobytes()) for image in images]

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if trainer.current_epoch == self._last_epoch:
            trainer.should_stop = True

    def on_train_end(self, trainer, pl_module) -> None:
        trainer.save_checkpoint(self._checkpoint)


def record_orders(config: dict[str, Any]) -> tuple[Seen, ...] | None:
    """Train in one piece on the first worker alone, then in two pieces on all of them.

    Returns:
        On the first worker: what it has seen alone, and what all have seen before and after the
        restart, the windows of the first worker first.
    """
    first, last = f"{config['folder']}/first.ckpt", f"{config['folder']}/last.ckpt"
    workers = ray.train.get_context().get_world_size()
    is_first = ray.train.get_context().get_world_rank() == 0
    alone = fit(config, 1, NUM_EPOCHS - 1, last) if is_first else {}
    before = joined(fit(config, workers, 2, first))
    after = joined(fit(config, workers, NUM_EPOCHS - 1, last, resume_from=first))
    ray.train.report({})
    return (alone, before, after) if is_first else None


def fit(
    config: dict[str, Any],
    workers: int,
    last_epoch: int,
    checkpoint: str,
    resume_from: str | None = None,
) -> Seen:
    """Train with the product's data module, as a process that has trained nothing before."""
    data = OphNetDataModule(
        config["csv"], batch_size=GLOBAL_BATCH // workers, image_size=32, cache_dir=config["cache"]
    )
    model = SurgicalPhaseClassificationModel(3, "test_resnet", False, 32)
    module = SurgicalPhaseModule(3, model=model, random_shift=0.0, color_jitter=0.0)
    recorder = Recorder(last_epoch, checkpoint)
    on_ray: dict[str, Any] = {
        "strategy": RayDDPStrategy(broadcast_buffers=False),
        "plugins": [RayLightningEnvironment()],
    }
    trainer = L.Trainer(
        max_epochs=NUM_EPOCHS,
        accelerator="cpu",
        devices=1,
        callbacks=[recorder],
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(on_ray if workers > 1 else {}),
    )
    if workers > 1:
        prepare_trainer(trainer)
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    return recorder.seen


def joined(own: Seen) -> Seen:
    """The windows of each step on all workers, those of rank 0 first."""
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    merged: Seen = {}
    for seen in ranks:
        for place, checksums in seen.items():
            merged.setdefault(place, []).extend(checksums)
    return merged


@pytest.mark.slow
def test_one_and_two_workers_and_a_restart_give_one_order(ray_session, tmp_path):
    csv_path = write_color_dataset(tmp_path / "data", num_cases=10)
    with connect(Config()):
        trainer = TorchTrainer(
            record_orders,
            train_loop_config={
                "csv": str(csv_path),
                "cache": str(tmp_path / "cache"),
                "folder": str(tmp_path),
            },
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=str(tmp_path / "ray")),
        )
        one, before, after = trainer.fit().return_value
    assert len(one) == NUM_EPOCHS * (24 // GLOBAL_BATCH)
    epochs = [[c for (e, _), row in sorted(one.items()) if e == k for c in row] for k in range(5)]
    assert all(len(set(epoch)) == 24 for epoch in epochs), "a window came twice in an epoch"
    assert len({tuple(epoch) for epoch in epochs}) == NUM_EPOCHS
    assert {epoch for epoch, _ in before} == {0, 1, 2}
    assert {epoch for epoch, _ in after} == {3, 4}
    assert before | after == one
