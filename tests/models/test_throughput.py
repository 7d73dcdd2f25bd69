"""Peak rates of GPUs by the names that CUDA gives them."""

import pytest

from ophnet_ray.models.throughput import find_peak

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
