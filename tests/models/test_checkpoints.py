"""Folders of checkpoints: damaged ones are skipped, the best and the last two stay."""

import pytest
import torch

from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    find_checkpoints,
    find_unfinished,
    prune_checkpoints,
    prune_unfinished,
    temporary_file,
)

pytestmark = pytest.mark.unit


def keep(folder, epoch, macro_f1, step=0, val_loss=1.0):
    file = temporary_file(folder, epoch, step)
    file.parent.mkdir(parents=True)
    torch.save({"w": torch.full((3,), float(epoch))}, file)
    return commit_checkpoint(folder, epoch, {"val_macro_f1": macro_f1, "val_loss": val_loss}, step)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path):
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


def test_of_equal_scores_the_lower_validation_loss_is_the_best(tmp_path):
    kept = [keep(tmp_path, epoch, 0.5, val_loss=loss) for epoch, loss in enumerate([2.0, 1.0, 3.0])]
    assert best_checkpoint(kept).epoch == 1


def test_inside_an_epoch_the_last_intact_checkpoint_is_found(tmp_path):
    for step in (5, 10, 15):
        keep(tmp_path, 3, 0.0, step)
    prune_unfinished(tmp_path, keep=2)
    assert find_unfinished(tmp_path, 3).step == 15
    find_unfinished(tmp_path, 3).file.write_bytes(b"damaged")
    assert find_unfinished(tmp_path, 3).step == 10
    find_unfinished(tmp_path, 3).file.write_bytes(b"damaged")
    assert find_unfinished(tmp_path, 3) is None
    assert find_unfinished(tmp_path, 2) is None
    assert find_checkpoints(tmp_path) == []
