"""Resumes inside an epoch with every ingredient of the recipe, and what predicts from them."""

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from safetensors.torch import load_file

from ophnet_ray import OphNetDataModule
from ophnet_ray.config import Config
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.inference.export import export_onnx, export_safetensors
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.exact_resume import ExactResume
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.lightning_trainer import build_lightning_trainer
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    CheckpointPayload,
    Preprocessing,
    describe_settings,
)
from ophnet_ray.train.disk_space import checkpoint_bytes
from tests.helpers.checkpoints import make_payload

pytestmark = pytest.mark.unit

SIZE = 32
EVERYTHING = {
    "opt": "adamw",
    "weight_decay": 0.05,
    "layer_decay": 0.8,
    "head_lr_scale": 2.0,
    "lr_schedule": "cosine",
    "gradient_clip_val": 0.5,
    "label_smoothing": 0.1,
    "drop_path_rate": 0.5,
    "model_ema_decay": 0.9,
    "scale": 0.5,
    "rotate": 20.0,
    "hflip": 0.5,
    "vflip": 0.5,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.1,
    "white_balance": 0.1,
    "blur": 0.5,
    "noise": 0.5,
    "glare": 0.5,
    "reprob": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


class InsideEpoch(ExactResume):
    """Write a checkpoint at a step of the second epoch, then stop; resume from such a one."""

    def __init__(self, config, stop_at=None, file=None):
        super().__init__(seed=0)
        self._config, self._stop_at, self._file = config, stop_at, file
        self.num_steps, self.validated = 0, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.num_steps += 1
        if (trainer.current_epoch, batch_idx + 1) == (1, self._stop_at):
            self.save_inside_epoch(trainer, self._file)
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *rest):
        with torch.inference_mode():
            self.validated = pl_module.model(batch["image"], batch["mask"])
        self.batch = batch

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        model = pl_module.model
        payload = make_payload(
            phases=("0", "1", "2"),
            preprocessing=Preprocessing.of_network(model, self._config.windows),
            config=describe_settings(self._config),
            pooling=model.pooling,
            workers=self.gather_worker_states(trainer),
        )
        checkpoint[PAYLOAD_KEY] = payload.to_dict()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        payload = CheckpointPayload.from_dict(checkpoint[PAYLOAD_KEY], "a checkpoint")
        self.restore(payload.workers, trainer.global_rank)


@pytest.fixture
def manifest(color_csv, color_cache):
    data = OphNetDataModule(color_csv, image_size=SIZE, cache_dir=color_cache)
    data.setup()
    return data.manifest


def make_config(backbone, **settings):
    return Config().replace_flat(
        backbone=backbone,
        pretrained=False,
        image_size=SIZE,
        max_epochs=2,
        batch_size=2,
        lr=1e-2,
        **settings,
    )


def fit(config, manifest, tmp_path, callback, ckpt_path=None):
    """Fit from the same first weights; return the module and the trainer."""
    torch.manual_seed(3)
    recipe, training = config.recipe, config.training
    model = SurgicalPhaseClassificationModel.from_config(
        3, config.model, SIZE, drop_path_rate=recipe.drop_path_rate
    )
    module = SurgicalPhaseModule(
        3,
        lr=training.lr,
        model=model,
        lr_schedule=training.lr_schedule,
        recipe=recipe,
        augmentation=config.augmentation,
    )
    trainer = build_lightning_trainer(
        training, False, [callback], tmp_path, gradient_clip_val=recipe.gradient_clip_val
    )
    data = ManifestDataModule(
        manifest, training.batch_size, training.seed, sampling=config.sampling
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        pytest.param("test_efficientnet", EVERYTHING, id="batch norms"),
        pytest.param(
            "test_resnet",
            {"sampler": "balanced", "windows_per_segment": 2, "shuffle": "shard"},
            id="two windows per segment, shard by shard",
        ),
        pytest.param("test_vit", EVERYTHING | {"lora_rank": 2}, id="lora"),
        pytest.param("test_resnet", EVERYTHING | {"freeze": "stages:2"}, id="frozen stages"),
    ],
)
def test_a_fit_that_resumes_inside_an_epoch_ends_with_the_same_weights_and_average(
    manifest, tmp_path, backbone, settings
):
    config, file = make_config(backbone, **settings), tmp_path / "inside.ckpt"
    first, stopped, resumed = (
        InsideEpoch(config),
        InsideEpoch(config, 3, file),
        InsideEpoch(config),
    )
    whole, trainer = fit(config, manifest, tmp_path, first)
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(config, manifest, tmp_path, stopped)
    rest, _ = fit(config, manifest, tmp_path, resumed, str(file))
    assert first.num_steps == stopped.num_steps + resumed.num_steps
    assert resumed.num_steps < stopped.num_steps
    expected = whole.state_dict()
    assert rest.state_dict().keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(rest.state_dict()[name], value), name
    assert torch.equal(resumed.validated, first.validated)
    assert rest.epoch_metrics == whole.epoch_metrics


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"model_ema_decay": 0.9}, id="average"),
        pytest.param({"lora_rank": 2}, id="lora"),
        pytest.param({"model_ema_decay": 0.9, "lora_rank": 2}, id="both"),
    ],
)
def test_a_checkpoint_predicts_with_the_weights_that_were_validated(manifest, tmp_path, settings):
    config, file = make_config("test_vit", **settings), tmp_path / "inside.ckpt"
    callback = AfterValidation(config, file)
    fit(config, manifest, tmp_path, callback)
    size_bytes = checkpoint_bytes(config, num_phases=3)
    assert size_bytes <= file.stat().st_size < size_bytes * 1.02 + 250_000
    network = load_model(file).network
    batch = callback.batch
    with torch.inference_mode():
        logits = network(batch["image"], batch["mask"])
    np.testing.assert_array_equal(logits, callback.validated)


def test_exports_hold_the_weights_that_were_validated(manifest, tmp_path):
    """The average of the weights, with LoRA's sums, as safetensors and as ONNX."""
    config = make_config("test_vit", model_ema_decay=0.9, lora_rank=2)
    file = tmp_path / "inside.ckpt"
    callback = AfterValidation(config, file)
    fit(config, manifest, tmp_path, callback)
    model, batch = load_model(file), callback.batch
    export_safetensors(model, file, tmp_path / "weights", None)
    network = SurgicalPhaseClassificationModel(3, "test_vit", False, SIZE)
    network.load_state_dict(load_file(tmp_path / "weights/model.safetensors"))
    with torch.inference_mode():
        logits = network.eval()(batch["image"], batch["mask"])
    np.testing.assert_array_equal(logits, callback.validated)
    export_onnx(model, tmp_path / "model.onnx")
    session = InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    mean, std = (each.view(1, 3, 1, 1) for each in (network.mean, network.std))
    pixels = ((batch["image"] * std + mean) * 255).round().to(torch.uint8).numpy()
    (probabilities,) = session.run(None, {"pixels": pixels})
    expected = callback.validated.softmax(dim=1)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected.numpy(), axis=0).max() > 0.01, "the answers depend on the images"


class AfterValidation(InsideEpoch):
    """Write a checkpoint at the end of each epoch, as a run does."""

    def __init__(self, config, file):
        super().__init__(config)
        self._target = file

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self._target)
