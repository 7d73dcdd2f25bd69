"""Outputs of commands, and the files of the user that they leave alone."""

import zipfile

import pytest

from ophnet_ray.__main__ import COMMANDS
from ophnet_ray.cli.arguments import parse_command
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit


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
        parse_command(COMMANDS, command.split(), "ophnet_ray").run()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
