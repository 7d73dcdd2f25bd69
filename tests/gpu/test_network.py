"""Training steps on a GPU, in bfloat16, from the bytes of the images on."""

import pytest
import torch

from ophnet_ray.data.preprocessing import augment_images, prepare_batch
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


def test_a_step_on_the_gpu_learns_what_the_cpu_learns():
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel(3, "test_maxvit", False, 64)
    module = SurgicalPhaseModule(3, model=model).cuda()
    pixels = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, device="cuda")
    labels = torch.arange(8, device="cuda") % 3
    draws = torch.zeros(8, 5, device="cuda")
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        values = augment_images(pixels, draws, 0.05, 0.1)
        image, mask = prepare_batch(values, model.mean, model.std, "rg")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(module(image, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
