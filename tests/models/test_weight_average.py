"""Moving average of weights in Lightning's fit: its values, its validation, its checkpoints."""

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from ophnet_ray.config import ModelConfig
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.step_skipper import StepSkipper
from ophnet_ray.recipe_config import RecipeConfig

pytestmark = pytest.mark.unit

SIZE, DECAY = 32, 0.5


def make_batch(seed, is_broken=False):
    image = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    if is_broken:
        image[2, 1, 5, 5] = float("nan")
    return {"image": image, "mask": image[:, :2], "label": torch.arange(4) % 2}


class Recorder(L.Callback):
    """Keep the weights after each step, and those of the validation."""

    def __init__(self):
        self.weights, self.validated = [], None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.weights.append(copy_state(pl_module.model))

    def on_validation_batch_end(self, trainer, pl_module, *rest):
        self.validated = copy_state(pl_module.model)


def copy_state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def fit(batches, tmp_path, decay=DECAY, callbacks=(), **options):
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel.from_config(
        2, ModelConfig(backbone="test_resnet", pretrained=False), SIZE
    )
    for each in model.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0  # its random numbers go on after a skipped step
    recipe = RecipeConfig(model_ema_decay=decay)
    module = SurgicalPhaseModule(2, lr=1e-2, model=model, on_nan="skip", recipe=recipe)
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[recorder, StepSkipper(), *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **options,
    )
    trainer.fit(
        module, DataLoader(batches, batch_size=None), DataLoader([make_batch(7)], batch_size=None)
    )
    return module, recorder


def average_of(weights, decay=DECAY):
    """The closed form: the first weights, then d·average + (1 - d)·weights per step."""
    average = dict(weights[0])
    for step, state in enumerate(weights[1:], start=2):
        own = min(decay, 1 - step ** (-2 / 3))
        for name, value in state.items():
            if value.is_floating_point():
                average[name] = own * average[name] + (1 - own) * value
    return average


def assert_close(state, expected):
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.parametrize("accumulate_grad_batches", [1, 2])
def test_the_average_is_validated_and_left_in_the_network(tmp_path, accumulate_grad_batches):
    batches = [make_batch(seed) for seed in range(6)]
    module, recorder = fit(batches, tmp_path, accumulate_grad_batches=accumulate_grad_batches)
    assert len(recorder.weights) == 6 // accumulate_grad_batches
    expected = average_of(recorder.weights)
    assert_close(recorder.validated, expected)
    assert_close(module.model.state_dict(), expected)
    name = "classifier.0.weight"
    assert not torch.equal(recorder.weights[-1][name], expected[name])


def test_a_skipped_step_leaves_no_trace_in_the_average(tmp_path):
    good = [make_batch(seed) for seed in range(4)]
    expected, _ = fit(good, tmp_path)
    module, _ = fit([*good[:2], make_batch(9, is_broken=True), *good[2:]], tmp_path)
    for name, value in expected.model.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(module.model.state_dict()[name], value), name


def test_training_goes_on_with_the_weights_and_not_with_their_average(tmp_path):
    batches = [make_batch(seed) for seed in range(3)]
    _, plain = fit(batches, tmp_path, decay=None)
    _, averaged = fit(batches, tmp_path)
    for before, after in zip(plain.weights, averaged.weights, strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_checkpoint_with_an_average_is_loaded_without_a_trainer_and_by_a_plain_module(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path)
    module, _ = fit([make_batch(seed) for seed in range(3)], tmp_path, callbacks=[keep])
    file = keep.best_model_path

    def untrained(**settings):
        model = SurgicalPhaseClassificationModel(2, "test_resnet", False, SIZE)
        return {"num_classes": 2, "model": model, **settings}

    averaged = untrained(recipe=RecipeConfig(model_ema_decay=DECAY))
    loaded = SurgicalPhaseModule.load_from_checkpoint(file, **averaged)
    plain = SurgicalPhaseModule(**untrained())
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.validate(plain, DataLoader([make_batch(7)], batch_size=None), ckpt_path=file)
    for name, value in module.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
        assert torch.equal(plain.model.state_dict()[name], value), name
