"""Peak rates of GPUs by the names that CUDA gives them, and operations of a training step."""

import pytest
import torch
from torch import nn

from ophnet_ray.models.throughput import count_training_flops, find_peak

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("Tesla T4", None),
    ],
)
def test_a_rate_belongs_to_a_whole_name(name, peak):
    assert find_peak(name) == (None if peak is None else peak * 1e12)


def test_frozen_layers_cost_their_forward_pass_and_the_gradients_that_pass_through_them():
    # 8 x 8 pixels: a full, a depthwise and a pointwise convolution
    costs = [2 * 64 * each for each in (3 * 4 * 9, 4 * 9, 4 * 5)]
    with torch.device("meta"):
        image = torch.empty(1, 3, 8, 8)
        layers = [
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1, groups=4),
            nn.Conv2d(4, 5, 1),
        ]
    network = nn.Sequential(*layers)
    assert count_training_flops(network, image) == 3 * sum(costs)
    layers[0].requires_grad_(False)
    first, second, third = costs
    # no gradient goes below the second layer
    assert count_training_flops(network, image) == first + 2 * second + 3 * third
    layers[1].requires_grad_(False)
    assert count_training_flops(network, image) == first + second + 2 * third
    layers[0].requires_grad_(True)
    # the gradient of the first one's weight passes through the frozen one
    assert count_training_flops(network, image) == 2 * first + 2 * second + 3 * third
