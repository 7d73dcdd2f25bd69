"""Pictures for TensorBoard."""

import pytest

from ophnet_ray.train.tensorboard_callback import number_cases

pytestmark = pytest.mark.unit


def test_a_numbered_case_is_not_named():
    assert number_cases(["patient-7", "patient-2"]) == ["case 1", "case 2"]
