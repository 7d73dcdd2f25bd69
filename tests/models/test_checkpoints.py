"""Checkpoints: torn and unfinished ones are skipped, the best and the last two are kept."""

import pytest
import torch

from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    find_checkpoints,
    prune_checkpoints,
    temporary_file,
)

pytestmark = pytest.mark.unit


def keep(folder, epoch, macro_f1):
    file = temporary_file(folder, epoch)
    file.parent.mkdir(parents=True)
    torch.save({"w": torch.full((3,), float(epoch))}, file)
    metrics = {"val_macro_f1": macro_f1, "val_loss": 1.0}
    return commit_checkpoint(folder, epoch, metrics)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    for epoch in range(3):
        keep(tmp_path, epoch, epoch / 10)
    newest = find_checkpoints(tmp_path)[-1]
    newest.file.write_bytes(newest.file.read_bytes()[:-50])
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0, 1]
    (tmp_path / "epoch=0001" / "manifest.json").write_text('{"sha')
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0]


def test_a_checkpoint_that_is_being_written_does_not_exist(tmp_path):
    file = temporary_file(tmp_path, 0)
    file.parent.mkdir(parents=True)
    torch.save({}, file)
    assert find_checkpoints(tmp_path) == []


def test_the_best_and_the_last_two_are_kept(tmp_path):
    kept = []
    for epoch, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.1]):
        kept = prune_checkpoints([*kept, keep(tmp_path, epoch, score)])
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [c.epoch for c in kept] == [1, 4, 5]
    assert best_checkpoint(kept).epoch == 1
