"""Checks of flags that several sub-commands share."""

import pytest

from ophnet_ray.cli.checks import trained_case_from
from ophnet_ray.config import Config
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit


def test_the_cases_are_read_as_in_the_training(tmp_path):
    settings = Config().replace_flat(case_from="folder").to_flat()
    save_checkpoint(tmp_path / "a.ckpt", make_payload(config=settings))
    assert trained_case_from(str(tmp_path / "a.ckpt")) == "folder"
    del settings["case_from"]
    save_checkpoint(tmp_path / "old.ckpt", make_payload(config=settings))
    assert trained_case_from(str(tmp_path / "old.ckpt")) == "auto"
