"""The Lightning module, trained through Lightning."""

import traceback

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data.loader import SEGMENT_WEIGHT
from ophnet_ray.data.preprocessing import extract_masks, to_unit
from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.recipe_config import RecipeConfig
from tests.helpers.fits import quiet_trainer

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


def fit(module, batch, tmp_path, max_epochs=1, **options):
    trainer = quiet_trainer(tmp_path, max_epochs=max_epochs, num_sanity_val_steps=0, **options)
    loader = DataLoader([batch], batch_size=None)
    trainer.fit(module, train_dataloaders=loader, val_dataloaders=loader)
    return trainer


class NumbersRead(TorchDispatchMode):
    """Count the numbers that are read back from tensors, besides those of the optimiser."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            frames = traceback.extract_stack()
            if not any("torch/optim" in frame.filename for frame in frames):
                self.places += [f"{frame.filename}:{frame.lineno}" for frame in frames[-4:-1]]
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_number_back_which_a_gpu_would_have_to_finish_first(tmp_path):
    module = SurgicalPhaseModule(
        2, model=SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    )
    read = NumbersRead()

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                read.__enter__()
            if batch_idx == 4:
                read.__exit__(None, None, None)

    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[Watch()])
    trainer.fit(module, DataLoader([random_batch()] * 6, batch_size=None))
    assert read.places == []


def test_a_fused_optimiser_takes_clipped_gradients_in_mixed_precision(tmp_path):
    """As the recipe modern does on a GPU."""
    torch.manual_seed(0)
    module = SurgicalPhaseModule(
        2, model=SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    )
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    norms = []

    class Recorder(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            gradients = [each.grad for each in module.parameters() if each.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    options = {"precision": "bf16-mixed", "gradient_clip_val": 1e-3, "callbacks": [Recorder()]}
    fit(module, random_batch(), tmp_path, **options)
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


class BatchRecorder(L.Callback):
    """Keep the prepared training batches."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(batch)


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}]
)
def test_labels_are_mixed_as_the_images_are(tmp_path, settings):
    """Each image is of one brightness, 0 or 1, as its label is."""
    batch = random_batch(16)
    batch["pixels"][:] = 255 * batch["label"].view(-1, 1, 1, 1)
    batch["draws"] = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))
    module = SurgicalPhaseModule(
        2,
        model=SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE),
        random_shift=0.0,
        color_jitter=0.0,
        augmentation=AugmentationConfig(**settings),
    )
    recorder = BatchRecorder()
    fit(module, batch, tmp_path, callbacks=[recorder])
    (seen,) = recorder.seen
    share = seen["own_share"]
    target = share * seen["label"] + (1 - share) * seen["other_label"]
    model = module.model
    shown = seen["image"] * model.std.view(3, 1, 1) + model.mean.view(3, 1, 1)
    torch.testing.assert_close(shown.mean((1, 2, 3)), target)
    assert ((target > 0.01) & (target < 0.99)).sum() > 3


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


def test_a_segment_counts_once_however_many_windows_it_has(tmp_path):
    """A segment of three windows and one of a single window."""
    model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    module = SurgicalPhaseModule(2, model=model)
    batch = random_batch()
    batch["label"] = torch.tensor([0, 0, 0, 1])
    third = SEGMENT_WEIGHT // 3
    batch["weight"] = torch.tensor([third, third, third, SEGMENT_WEIGHT])
    fit(module, batch, tmp_path)
    segments, windows = module.segments_by_case[0], module.confusion_by_case[0]
    assert windows.sum(axis=1).tolist() == [3, 1]
    np.testing.assert_allclose(segments, windows / [[3], [1]])
    right = np.trace(segments) / 2
    assert module.epoch_metrics["val_segment_acc"] == pytest.approx(right)


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
    scores = {"val_acc", "val_macro_f1", "val_segment_acc", "val_segment_macro_f1"}
    assert set(metrics) == {"train_loss", "val_loss"} | scores
    assert metrics["train_loss"] == pytest.approx(losses[0])
    assert module.confusion_by_case.shape == (1, 2, 2)
    assert module.confusion_by_case.sum(axis=(0, 2)).tolist() == [2, 1]  # the padding is left out


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_fit_moves_no_statistic_of_a_frozen_batch_norm(tmp_path, backbone):
    """Lightning calls no train(): the network must be right as it was built."""
    weights = tmp_path / "weights.pt"
    torch.save(create_encoder(backbone, SIZE, pretrained=False).state_dict(), weights)
    model = SurgicalPhaseClassificationModel(
        2, backbone, image_size=SIZE, backbone_weights=str(weights)
    )
    statistics = {
        name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name
    }
    dropout = [layer for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
    fit(SurgicalPhaseModule(2, model=model), random_batch(), tmp_path, max_epochs=2)
    after = dict(model.named_buffers())
    moved = [name for name, before in statistics.items() if not torch.equal(before, after[name])]
    assert statistics
    assert moved == []
    assert all(layer.training for layer in dropout), "only batch norms are frozen"


class GradientRecorder(L.Callback):
    """Keep the gradient of a parameter at each step of the optimiser."""

    def __init__(self) -> None:
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(pl_module.model.norm.weight.grad.clone())


def test_each_step_takes_the_mean_gradient_of_its_batches_also_the_last_of_an_epoch(tmp_path):
    """5 batches in groups of 3: the last step has 2."""
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    model.classifier[2].p = 0.0
    module = SurgicalPhaseModule(2, lr=0.0, model=model)
    batches = [
        {"image": torch.randn(4, 3, SIZE, SIZE), "mask": torch.rand(4, 2, SIZE, SIZE), "label": y}
        for y in torch.randint(0, 2, (5, 4))
    ]
    own = []
    for batch in batches:
        loss = module.loss(module(batch["image"], batch["mask"]), batch["label"])
        own.append(torch.autograd.grad(loss, model.norm.weight)[0])
    recorder = GradientRecorder()
    trainer = quiet_trainer(
        tmp_path, max_epochs=1, accumulate_grad_batches=3, limit_val_batches=0, callbacks=[recorder]
    )
    trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))
    assert len(recorder.seen) == 2
    torch.testing.assert_close(recorder.seen[0], torch.stack(own[:3]).mean(0))
    torch.testing.assert_close(recorder.seen[1], torch.stack(own[3:]).mean(0))


@pytest.mark.parametrize(
    ("backbone", "freeze", "moving"),
    [
        ("test_resnet", "encoder", ()),
        ("test_resnet", "stages:3", ("layer4",)),
        ("test_vit", "stages:4", ("blocks.4", "blocks.5", "norm")),
        ("test_efficientnet", "bn", ("conv", "blocks")),
        ("test_efficientnet", "none", ("conv", "bn", "blocks")),
    ],
)
def test_frozen_layers_keep_weights_and_statistics_and_are_not_in_the_optimiser(
    tmp_path, backbone, freeze, moving
):
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(2, backbone, False, SIZE)
    module = SurgicalPhaseModule(2, lr=0.1, model=model, recipe=RecipeConfig(freeze=freeze))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(module, random_batch(), tmp_path, max_epochs=2)
    moved = {
        name.removeprefix("image_encoder.")
        for name, value in model.state_dict().items()
        if name.startswith("image_encoder.") and not torch.equal(value, before[name])
    }
    assert all(name.startswith(moving) for name in moved), moved
    assert all(any(name.startswith(part) for name in moved) for part in moving), moved
    if freeze == "bn":
        norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(each.training or each.weight.requires_grad for each in norms)
    groups = module.optimizers().optimizer.param_groups
    optimised = {id(each) for group in groups for each in group["params"]}
    image = torch.rand(2, 3, SIZE, SIZE)
    model(image, image[:, :2]).sum().backward()
    learning = {id(each) for each in model.parameters() if each.grad is not None}
    assert optimised == learning, "DDP would wait for the others"
    assert not torch.equal(model.classifier[0].weight, before["classifier.0.weight"])


def test_more_stages_than_the_backbone_has_cannot_be_frozen():
    model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
    with pytest.raises(UserError, match="--freeze stages:5: the backbone test_resnet has 4 stages"):
        SurgicalPhaseModule(2, model=model, recipe=RecipeConfig(freeze="stages:5"))
