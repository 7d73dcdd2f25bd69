"""Fixtures of the tests that need a GPU; the check's toy size runs them on the CPU."""

import os

import pytest
import torch

from ophnet_ray.data.manifest import Manifest
from tests.gpu.workload import write_windows


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU if ``OPHNET_CHECK_CPU`` is set."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("OPHNET_CHECK_CPU"):
        return torch.device("cpu")
    pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Manifest:
    """Windows of noise, 32 pixels wide, of 24 segments."""
    return write_windows(tmp_path_factory.mktemp("cache") / "windows", 32, 24)
