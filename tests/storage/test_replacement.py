"""Outputs of commands, and the files of the user that they leave alone."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ophnet_ray.__main__ import COMMANDS
from ophnet_ray.cli.arguments import parse_command
from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit


def run_command(command):
    parse_command(COMMANDS, command.split(), "ophnet_ray").run()


@pytest.mark.parametrize(
    "command",
    [
        "export --checkpoint model.ckpt --export_onnx model.ckpt",
        "export --checkpoint model.ckpt --export_onnx segments.csv",
        "export --checkpoint model.ckpt --safetensors .",
        "export --checkpoint model.ckpt --safetensors segments.csv",
        "features --encoder model.ckpt --videos . --index segments.csv",
        "features --encoder model.ckpt --videos . --index model.ckpt",
    ],
)
def test_no_output_replaces_a_file_of_another_kind(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("model.ckpt", "w") as archive:
        archive.writestr("data.pkl", b"")
    (tmp_path / "segments.csv").write_text("video_id,start,end,phase\n")
    (tmp_path / "model.safetensors").write_bytes(b"published weights")
    (tmp_path / "v.mp4").write_bytes(b"a video")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"not replaced|is a file"):
        run_command(command)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_export_that_was_killed_between_its_files_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config().replace_flat(backbone="test_resnet", pretrained=False, image_size=32)
    network = SurgicalPhaseClassificationModel(2, "test_resnet", False, 32)
    payload = make_payload(config=config.to_flat())
    payload = replace(payload, preprocessing=replace(payload.preprocessing, image_size=32))
    save_checkpoint(tmp_path / "model.ckpt", payload, network)
    give_name, named = Path.replace, []

    def replace_once(path, target):
        if named:
            raise KeyboardInterrupt
        named.append(give_name(path, target))

    export = "export --checkpoint model.ckpt --safetensors weights"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_once)
        with pytest.raises(KeyboardInterrupt):
            run_command(export)
    assert len(list((tmp_path / "weights").iterdir())) == 1
    run_command(export)
    card = json.loads((tmp_path / "weights/card.json").read_bytes())
    assert card["weights_sha256"] == hash_file(tmp_path / "weights/model.safetensors")
