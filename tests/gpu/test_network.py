"""The network on a GPU: the same answers as on the CPU, and training that learns."""

import numpy as np
import pytest
import torch

from ophnet_ray.data.augmentation import augment_images
from ophnet_ray.data.preprocessing import prepare_batch
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from tests.gpu.prediction import write_checkpoint
from tests.gpu.training import autocast, build_module

pytestmark = pytest.mark.gpu

SIZE = 32


@pytest.mark.parametrize("backbone", ["test_maxvit", "test_vit", "test_efficientnet"])
def test_a_checkpoint_predicts_on_the_gpu_what_it_predicts_on_the_cpu(device, tmp_path, backbone):
    network = build_module(backbone, SIZE).model
    file = write_checkpoint(tmp_path / "m.ckpt", network, backbone, SIZE)
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    here, there = (load_model(file, name).predict(images) for name in ("cpu", str(device)))
    # by default cuDNN rounds the inputs of convolutions to 11 bits
    np.testing.assert_allclose(there, here, rtol=0, atol=3e-3)
    assert np.ptp(here, axis=0).max() > 0.01, "the answers depend on the images"


def test_a_step_on_the_gpu_learns_what_the_cpu_learns(device):
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(3, "test_maxvit", False, SIZE)
    module = SurgicalPhaseModule(3, model=model).to(device)
    pixels = torch.randint(0, 256, (8, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    labels = torch.arange(8, device=device) % 3
    draws = torch.zeros(8, 5, device=device)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        values = augment_images(pixels, draws, 0.05, 0.1)
        image, mask = prepare_batch(values, model.mean, model.std, "rg")
        with autocast(device):
            loss = torch.nn.functional.cross_entropy(module(image, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
