"""Optimiser and schedule of the recipe, as Lightning's fit uses them."""

import math

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from ophnet_ray.config import ModelConfig
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.optimizer import fit_state_to_weights
from ophnet_ray.recipe_config import RecipeConfig
from tests.helpers.fits import quiet_trainer

pytestmark = pytest.mark.unit

SIZE = 32


def make_batches(num):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num, 4, 3, SIZE, SIZE, generator=generator)
    return [{"image": each, "mask": each[:, :2], "label": torch.arange(4) % 2} for each in images]


class RateRecorder(L.Callback):
    """Keep the optimiser, and the learning rate of each step."""

    def __init__(self):
        self.rates, self.optimizer = [], None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.optimizer = optimizer
        self.rates.append(pl_module.scheduled_lr)


def fit(tmp_path, backbone="test_resnet", num_batches=1, lr=1e-3, recipe=None, **options):
    """Fit one epoch; return the module, the rates and the optimiser."""
    schedule = options.pop("lr_schedule", "constant")
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel.from_config(
        2, ModelConfig(backbone=backbone, pretrained=False), SIZE
    )
    module = SurgicalPhaseModule(
        2, lr=lr, model=model, lr_schedule=schedule, recipe=recipe or RecipeConfig()
    )
    recorder = RateRecorder()
    trainer = quiet_trainer(
        tmp_path, max_epochs=1, callbacks=[recorder], limit_val_batches=0, **options
    )
    trainer.fit(module, DataLoader(make_batches(num_batches), batch_size=None))
    return module, recorder


def groups_by_name(module, optimizer):
    """The group of each trained parameter, by its name in the network."""
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    return {names[id(each)]: group for group in optimizer.param_groups for each in group["params"]}


def test_the_seed_recipe_is_adam_over_one_group_as_checkpoints_of_earlier_versions_hold_it(
    tmp_path,
):
    module, recorder = fit(tmp_path)
    expected = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], 1e-3)
    assert type(recorder.optimizer) is torch.optim.Adam
    [group] = recorder.optimizer.state_dict()["param_groups"]
    [own] = expected.state_dict()["param_groups"]
    assert group == own | {"initial_lr": 1e-3}


@pytest.mark.parametrize("backbone", ["test_vit", "test_maxvit", "test_resnet"])
def test_norms_biases_positions_and_tokens_have_no_weight_decay(tmp_path, backbone):
    recipe = RecipeConfig(opt="adamw", weight_decay=0.05)
    module, recorder = fit(tmp_path, backbone, recipe=recipe)
    assert type(recorder.optimizer) is torch.optim.AdamW
    groups = groups_by_name(module, recorder.optimizer)
    parameters = dict(module.model.named_parameters())
    trained = {name for name, each in parameters.items() if each.requires_grad}
    assert groups.keys() == trained
    decayed = {name for name, group in groups.items() if group["weight_decay"] == 0.05}
    free = {name for name, group in groups.items() if group["weight_decay"] == 0}
    assert decayed | free == trained
    tables = ("bias", "pos_embed", "cls_token", "position", "null_token", "bias_table")
    for name in trained:
        is_free = parameters[name].ndim <= 1 or name.endswith(tables)
        assert (name in free) == is_free, name
    assert "classifier.0.weight" in decayed
    assert "fusion.position" in free


def test_decoupled_decay_shrinks_a_weight_by_lr_times_decay(tmp_path):
    """Two fits from the same weights, with and without decay: AdamW's own definition."""
    torch.manual_seed(0)
    start = SurgicalPhaseClassificationModel.from_config(
        2, ModelConfig(backbone="test_resnet", pretrained=False), SIZE
    ).classifier[0].weight.detach()  # fmt: skip
    without, _ = fit(tmp_path, recipe=RecipeConfig(opt="adamw"), lr=1e-2)
    decayed, _ = fit(tmp_path, recipe=RecipeConfig(opt="adamw", weight_decay=0.5), lr=1e-2)
    ends = (each.model.classifier[0].weight.detach() for each in (without, decayed))
    difference = next(ends) - next(ends)
    torch.testing.assert_close(difference, 1e-2 * 0.5 * start, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize(("backbone", "num_blocks"), [("test_vit", 6), ("test_resnet", 4)])
def test_each_layer_of_the_encoder_has_a_lower_rate_than_the_next(tmp_path, backbone, num_blocks):
    recipe = RecipeConfig(layer_decay=0.5, head_lr_scale=3.0)
    module, recorder = fit(tmp_path, backbone, recipe=recipe)
    groups = groups_by_name(module, recorder.optimizer)
    scales = {name: group["lr_scale"] for name, group in groups.items()}
    assert all(group["lr"] == 1e-3 * group["lr_scale"] for group in groups.values())
    behind = {s for name, s in scales.items() if not name.startswith("image_encoder.")}
    assert behind == {3.0}
    stem = "patch_embed.proj.weight" if backbone == "test_vit" else "conv1.0.weight"
    layers = sorted(set(scales.values()) - behind, reverse=True)
    assert layers == pytest.approx([0.5**n for n in range(1, num_blocks + 2)])
    assert scales[f"image_encoder.{stem}"] == layers[-1]
    assert recorder.rates == [pytest.approx(1e-3)], "the rate that is recorded has no factor"


def test_cosine_rises_linearly_and_falls_to_almost_nothing_per_optimiser_step(tmp_path):
    recipe = RecipeConfig(warmup_ratio=0.4, layer_decay=0.9)
    _, recorder = fit(
        tmp_path,
        num_batches=20,
        recipe=recipe,
        lr_schedule="cosine",
        accumulate_grad_batches=2,
    )
    falling = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    expected = [0.2, 0.4, 0.6, 0.8, *falling]
    assert recorder.rates == pytest.approx([1e-3 * each for each in expected])


def test_one_cycle_keeps_the_factors_of_layers(tmp_path):
    _, recorder = fit(
        tmp_path, num_batches=20, recipe=RecipeConfig(layer_decay=0.5), lr_schedule="one_cycle"
    )
    rates = [group["max_lr"] for group in recorder.optimizer.param_groups]
    assert rates == pytest.approx([1e-3 * 0.5**n for n in range(len(rates))])
    assert max(recorder.rates) == pytest.approx(1e-3, rel=1e-2)


def test_a_loaded_optimiser_of_another_kind_stays_as_its_module_built_it():
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
    layer(torch.rand(3, 2)).sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    fit_state_to_weights(optimizer, may_fuse=False)
    assert optimizer.param_groups[0]["fused"] is True
    assert str(optimizer.state_dict()) == str(before)
