"""The file of a checkpoint: what is refused, and the choice of smoothing that is kept in it."""

import random
from pathlib import Path

import pytest
import torch

from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoint_file import (
    copy_checkpoint,
    load_checkpoint,
    read_payload,
    write_smoothing_choice,
)
from ophnet_ray.models.checkpoints import (
    MANIFEST_FILE,
    commit_checkpoint,
    find_checkpoints,
    replace_checkpoint_file,
    temporary_file,
)
from ophnet_ray.models.payload import PAYLOAD_KEY, SmoothingChoice
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit

CHOICE = SmoothingChoice("median", "val", ("frame_accuracy",))


def test_a_kept_smoothing_changes_nothing_else(tmp_path):
    path = tmp_path / "a.ckpt"
    values = make_payload(confusion_by_case=None).to_dict()
    torch.save({"state_dict": {"model.w": torch.ones(2)}, PAYLOAD_KEY: values, "epoch": 3}, path)
    write_smoothing_choice(path, CHOICE)
    content = torch.load(path, weights_only=True)
    assert content.pop("state_dict")["model.w"].tolist() == [1, 1]
    kept = {
        "smooth": "median",
        "chosen_on": "val",
        "by": ["frame_accuracy"],
        "look_ahead_s": None,
    }
    assert content == {PAYLOAD_KEY: values | {"smoothing_choice": kept}, "epoch": 3}


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a.ckpt"
    with pytest.raises(UserError, match="does not exist"):
        read_payload(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        read_payload(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="was not written by ophnet-ray"):
        read_payload(path)
    torch.save({PAYLOAD_KEY: make_payload().to_dict()}, path)
    with pytest.raises(UserError, match="holds no weights"):
        load_checkpoint(path)


def commit_with_payload(folder, **changes):
    file = temporary_file(folder, 0)
    file.parent.mkdir(parents=True)
    save_checkpoint(file, make_payload(**changes))
    return commit_checkpoint(folder, 0, {"val_loss": 1.0}).file


def test_a_checkpoint_inside_a_run_stays_intact_with_a_kept_smoothing(tmp_path):
    file = commit_with_payload(tmp_path)
    write_smoothing_choice(file, CHOICE)
    assert [checkpoint.file for checkpoint in find_checkpoints(tmp_path)] == [file]
    assert read_payload(file).smoothing == CHOICE
    assert sorted(path.name for path in file.parent.iterdir()) == ["checkpoint.ckpt", MANIFEST_FILE]


def test_a_damaged_checkpoint_gets_no_new_checksum(tmp_path):
    file = commit_with_payload(tmp_path)
    manifest = file.with_name(MANIFEST_FILE)
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0'))
    before = file.read_bytes()
    with pytest.raises(UserError, match="damaged"):
        write_smoothing_choice(file, CHOICE)
    assert file.read_bytes() == before
    assert find_checkpoints(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_kill_while_a_file_is_replaced_leaves_an_intact_checkpoint(tmp_path, monkeypatch, step):
    """The first leaves the old file, the second, after the rename, the new one."""
    file = commit_with_payload(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    def write(path):
        path.write_bytes(b"new")
        if step == "write":
            killed()

    if step == "replace":
        real, seen = Path.replace, []

        def replace_then_die(self, target):
            real(self, target)
            seen.append(target)
            if Path(target) == file:
                killed()

        monkeypatch.setattr(Path, "replace", replace_then_die)
    with pytest.raises(KeyboardInterrupt):
        replace_checkpoint_file(file, write)
    monkeypatch.undo()
    assert [checkpoint.file for checkpoint in find_checkpoints(tmp_path)] == [file]
    assert (file.read_bytes() == b"new") == (step == "replace")


def test_a_kept_smoothing_is_carried_over_to_the_same_training_only(tmp_path):
    """As when train.py or tune.py, run again, copies its best checkpoint over the answer."""
    same, other, output = tmp_path / "same", tmp_path / "other", tmp_path / "output"
    save_checkpoint(same, make_payload())
    save_checkpoint(other, make_payload(data_hash="1" * 64))
    notices = []
    output.write_text("another file, which holds no choice")
    copy_checkpoint(same, str(output), notices.append)
    write_smoothing_choice(output, CHOICE)
    copy_checkpoint(same, str(output), notices.append)
    assert read_payload(output).smoothing == CHOICE
    assert notices == []
    copy_checkpoint(other, str(output), notices.append)
    assert read_payload(output).smoothing is None
    (notice,) = notices
    assert "with the smoothing median" in notice


def test_no_damaged_checkpoint_is_loaded_with_other_weights(tmp_path):
    """torch reads past the checksums in its files: of 368 flipped bits 366 loaded in silence."""
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, make_payload())
    content, rng, refused = path.read_bytes(), random.Random(3), 0
    weights, payload = load_checkpoint(path)
    for _ in range(300):
        damaged, at = bytearray(content), rng.randrange(len(content))
        if rng.random() < 0.8:
            damaged[at] ^= 1 << rng.randrange(8)
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        path.write_bytes(damaged)
        try:
            ours, values = load_checkpoint(path)
        except UserError:
            refused += 1
            continue
        assert all(torch.equal(ours[name], tensor) for name, tensor in weights.items())
        assert values.history == payload.history
    assert refused > 200
