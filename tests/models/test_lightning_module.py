"""The Lightning module, trained through Lightning."""

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from ophnet_ray.data.preprocessing import extract_masks, to_unit
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel

pytestmark = pytest.mark.unit

SIZE = 32


def random_batch(num=4):
    torch.manual_seed(1)
    return {
        "pixels": torch.randint(0, 256, (num, 3, SIZE, SIZE), dtype=torch.uint8),
        "draws": torch.zeros(num, 5),
        "label": torch.arange(num) % 2,
        "valid": torch.ones(num, dtype=torch.bool),
        "case": torch.zeros(num, dtype=torch.int64),
    }


def fit(module, batch, tmp_path):
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    loader = DataLoader([batch], batch_size=None)
    trainer.fit(module, train_dataloaders=loader, val_dataloaders=loader)


@pytest.mark.parametrize("mask", ["rg", "chroma", "none"])
def test_training_feeds_the_masks_that_the_network_expects(tmp_path, mask):
    model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE, mask=mask)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    batch = random_batch()
    fit(SurgicalPhaseModule(2, model=model), batch, tmp_path)
    expected = extract_masks(to_unit(batch["pixels"]), mask)
    assert len(seen) == 2  # a training and a validation step
    for masks in seen:
        torch.testing.assert_close(masks, expected)


def test_an_epoch_reports_its_loss_and_scores(tmp_path):
    """The mean training loss of one step is that of its batch; windows are counted once."""
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    module = SurgicalPhaseModule(2, model=model)
    batch = random_batch()
    batch["valid"] = torch.tensor([True, True, True, False])
    losses = []
    module.loss.register_forward_hook(lambda _, __, loss: losses.append(loss.item()))
    fit(module, batch, tmp_path)
    metrics = module.epoch_metrics
    assert set(metrics) == {"train_loss", "val_loss", "val_acc", "val_macro_f1"}
    assert metrics["train_loss"] == pytest.approx(losses[0])
    assert module.confusion_by_case.shape == (1, 2, 2)
    assert module.confusion_by_case.sum(axis=(0, 2)).tolist() == [2, 1]  # the padding is left out
