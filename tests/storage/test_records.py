"""Small files with a checksum: a damaged one is told from what was written."""

import json
import random

import pytest
import yaml

from ophnet_ray.storage.records import (
    DamagedFileError,
    dump_record,
    dump_yaml_record,
    read_record,
    read_yaml_record,
)
from tests.reliability.damage import damage

pytestmark = pytest.mark.unit

VALUES = {"epoch": 7, "metrics": {"val_acc": 0.8125, "lr": 1e-4}, "name": "Müller", "seed": None}


def test_values_come_back(tmp_path):
    file = tmp_path / "record.json"
    file.write_bytes(dump_record(VALUES))
    assert read_record(file, dict, "") == VALUES
    assert json.loads(file.read_text())["epoch"] == 7


def test_a_file_without_a_checksum_is_read_as_it_is(tmp_path):
    """Earlier versions wrote such files."""
    file = tmp_path / "record.json"
    file.write_text(json.dumps(VALUES))
    assert read_record(file, dict, "") == VALUES
    text = tmp_path / "config.yaml"
    text.write_text("lr: 0.5\n")
    assert read_yaml_record(text, "") == {"lr": 0.5}


def known(values):
    return {name: values[name] for name in VALUES}


def test_no_damage_yields_other_values(tmp_path):
    file, rng, refused = tmp_path / "record.json", random.Random(1), 0
    content = dump_record(VALUES)
    for _ in range(2000):
        file.write_bytes(damage(rng, content))
        try:
            assert read_record(file, known, "") == VALUES
        except DamagedFileError:
            refused += 1
    assert refused > 1500


def test_no_damage_of_yaml_yields_other_values(tmp_path):
    file, rng, refused = tmp_path / "config.yaml", random.Random(2), 0
    settings = {"lr": 0.001, "backbone": "maxvit_large_tf_224", "use_gpu": None}
    content = dump_yaml_record(yaml.safe_dump(settings))
    assert yaml.safe_load(content) == settings
    for _ in range(2000):
        file.write_bytes(damage(rng, content))
        try:
            values = read_yaml_record(file, "")
            assert {name: values.get(name) for name in settings} == settings
        except DamagedFileError:
            refused += 1
    assert refused > 1500


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"null", b"\xff", b"[" * 10_000, b"{}"])
def test_another_structure_is_one_line_with_the_cure(tmp_path, content):
    file = tmp_path / "result.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError) as refused:
        read_record(file, lambda values: values["epoch"], "delete it")
    assert str(refused.value).startswith(f"{file} is damaged (")
    assert str(refused.value).endswith("; delete it")
    assert "\n" not in str(refused.value)
