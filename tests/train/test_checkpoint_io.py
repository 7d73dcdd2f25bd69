"""Checkpoint files: hashed while they are written, and a full disk is named."""

import pytest
import torch

from ophnet_ray.hashing import hash_file
from ophnet_ray.train.checkpoint_io import SyncedCheckpointIO

pytestmark = pytest.mark.unit

CHECKPOINT = {"state_dict": {"w": torch.arange(100_000.0)}, "epoch": 3, "names": ["a", "b"]}


def test_the_checksum_is_that_of_the_file_which_torch_reads_back(tmp_path):
    writer, path = SyncedCheckpointIO(), tmp_path / "new/checkpoint.ckpt"
    writer.save_checkpoint(CHECKPOINT, path)
    assert writer.sha256 == hash_file(path)
    back = torch.load(path, weights_only=True)
    assert torch.equal(back["state_dict"]["w"], CHECKPOINT["state_dict"]["w"])
    assert (back["epoch"], back["names"]) == (3, ["a", "b"])


def test_nothing_is_written_to_the_temporary_folder_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    SyncedCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "checkpoint.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.ckpt"]


def test_a_full_disk_is_named_with_the_file_and_its_free_bytes(tmp_path):
    path = tmp_path / "checkpoint.ckpt"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device after [\d,]+ bytes of {path}"):
        SyncedCheckpointIO().save_checkpoint(CHECKPOINT, path)
