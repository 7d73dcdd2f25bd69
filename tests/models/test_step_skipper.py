"""Steps with gradients that are not finite, through Lightning's own fit."""

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from ophnet_ray.config import ModelConfig
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.step_skipper import StepSkipper

pytestmark = pytest.mark.unit

SIZE = 32
MODEL = ModelConfig(backbone="test_resnet", pretrained=False)


def make_batch(seed, is_broken=False):
    image = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    if is_broken:
        image[2, 1, 5, 5] = float("nan")
    return {"image": image, "mask": image[:, :2], "label": torch.arange(4) % 2}


def fit(batches, tmp_path, on_nan="skip", accumulate_grad_batches=1):
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel.from_config(2, MODEL, SIZE, None)
    for each in model.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0  # its random numbers go on after a skipped step
    module = SurgicalPhaseModule(2, lr=1e-2, model=model, on_nan=on_nan)
    skipper = StepSkipper()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[skipper] if on_nan == "skip" else [],
        accumulate_grad_batches=accumulate_grad_batches,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module, skipper


@pytest.mark.parametrize("broken_at", [0, 1, 3])
def test_a_skipped_step_leaves_no_trace(tmp_path, broken_at):
    good = [make_batch(seed) for seed in range(3)]
    broken = [*good[:broken_at], make_batch(9, is_broken=True), *good[broken_at:]]
    expected, none = fit(good, tmp_path)
    module, skipper = fit(broken, tmp_path)
    assert (none.num_skipped, none.num_steps) == (0, 3)
    assert (skipper.num_skipped, skipper.num_steps) == (1, 4)
    for name, tensor in expected.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(module.state_dict()[name], tensor), name
    assert module.epoch_metrics["train_loss"] == expected.epoch_metrics["train_loss"]


def test_without_it_one_broken_batch_ruins_every_weight(tmp_path):
    module, _ = fit([make_batch(0), make_batch(9, is_broken=True)], tmp_path, on_nan="stop")
    assert any(not torch.isfinite(each).all() for each in module.parameters())
    assert module.epoch_metrics["train_loss"] != module.epoch_metrics["train_loss"]


def test_a_step_of_two_batches_is_skipped_whole(tmp_path):
    batches = [make_batch(0), make_batch(9, is_broken=True), make_batch(1), make_batch(2)]
    expected, _ = fit([make_batch(1), make_batch(2)], tmp_path, accumulate_grad_batches=2)
    module, skipper = fit(batches, tmp_path, accumulate_grad_batches=2)
    assert (skipper.num_skipped, skipper.num_steps) == (1, 2)
    for name, tensor in expected.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(module.state_dict()[name], tensor), name
