"""The Lightning trainer: the settings of a run reach Lightning and torch."""

import pytest
import torch

from ophnet_ray.config import TrainingConfig
from ophnet_ray.models.exact_resume import ExactResume
from ophnet_ray.models.lightning_trainer import build_lightning_trainer, choose_precision

pytestmark = pytest.mark.unit


@pytest.fixture
def torch_as_it_was(monkeypatch):
    """The switches of this process, and the variable that Lightning sets."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def test_deterministic_training_allows_torch_only_what_repeats(torch_as_it_was, tmp_path):
    torch.backends.cudnn.benchmark = True
    for deterministic in (False, True):
        training = TrainingConfig(deterministic=deterministic)
        build_lightning_trainer(training, False, [ExactResume(0)], tmp_path)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_cpu_trains_in_full_precision_unless_told_otherwise():
    assert choose_precision("auto", use_gpu=False) == "32-true"
    assert choose_precision("bf16-mixed", use_gpu=False) == "bf16-mixed"
