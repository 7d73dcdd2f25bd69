"""Folders of checkpoints: damaged ones are skipped, the best and the last two stay."""

import errno
import json

import pytest
import torch

from ophnet_ray.models import checkpoints
from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    delete_leftovers,
    find_checkpoints,
    newest_position,
    prune_checkpoints,
    prune_unfinished,
    temporary_file,
    verify_checkpoints,
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


def last_inside(folder, epoch):
    return verify_checkpoints(folder).last_inside(epoch)


def test_inside_an_epoch_the_last_intact_checkpoint_is_found(tmp_path):
    for step in (5, 10, 15):
        keep(tmp_path, 3, 0.0, step)
    prune_unfinished(tmp_path, keep=2)
    assert last_inside(tmp_path, 3).step == 15
    last_inside(tmp_path, 3).file.write_bytes(b"damaged")
    assert last_inside(tmp_path, 3).step == 10
    last_inside(tmp_path, 3).file.write_bytes(b"damaged")
    assert last_inside(tmp_path, 3) is None
    assert last_inside(tmp_path, 2) is None
    assert find_checkpoints(tmp_path) == []


def test_a_manifest_with_an_altered_epoch_or_metric_is_not_believed(tmp_path):
    keep(tmp_path, 0, 0.5)
    manifest = keep(tmp_path, 1, 0.25).folder / "manifest.json"
    written = manifest.read_text()
    for before, after in [
        ('"epoch": 1', '"epoch": 3'),
        ("0.25", "0.75"),
        ('"metrics"', '"netrics"'),
    ]:
        assert before in written
        manifest.write_text(written.replace(before, after))
        assert [c.epoch for c in find_checkpoints(tmp_path)] == [0]
    manifest.write_text(written)
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0, 1]


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_counts(tmp_path):
    manifest = keep(tmp_path, 4, 0.5).folder / "manifest.json"
    values = json.loads(manifest.read_text())
    del values["checksum"]
    manifest.write_text(json.dumps(values))
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [4]
    values["epoch"] = 5
    manifest.write_text(json.dumps(values))
    assert find_checkpoints(tmp_path) == []


def test_epochs_are_in_the_order_of_their_numbers(tmp_path):
    for epoch in (9_998, 10_000, 9_999):
        keep(tmp_path, epoch, 0.5)
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [9_998, 9_999, 10_000]


def test_damaged_checkpoints_are_set_aside_and_never_deleted(tmp_path):
    keep(tmp_path, 0, 0.5)
    for checkpoint in (keep(tmp_path, 1, 0.5), keep(tmp_path, 2, 0.0, step=5)):
        checkpoint.file.write_bytes(b"damaged")
    assert [p.name for p in verify_checkpoints(tmp_path).damaged] == [
        "epoch=0001.1",
        "epoch=0002-step=000005.1",
    ]
    again = keep(tmp_path, 1, 0.5)
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0, 1]
    again.file.write_bytes(b"damaged again")
    keep(tmp_path, 1, 0.5)
    kept = sorted(tmp_path.glob("damaged/epoch=0001*/checkpoint.ckpt"))
    assert [file.read_bytes() for file in kept] == [b"damaged", b"damaged again"]


def test_the_newest_position_counts_whole_epochs_and_steps(tmp_path):
    assert newest_position(tmp_path) == (0, 0)
    keep(tmp_path, 0, 0.0, step=20)
    assert newest_position(tmp_path) == (0, 20)
    keep(tmp_path, 0, 0.5)
    assert newest_position(tmp_path) == (1, 0)
    keep(tmp_path, 1, 0.0, step=5)
    assert newest_position(tmp_path) == (1, 5)


def test_leftovers_of_a_killed_writer_are_deleted(tmp_path):
    keep(tmp_path, 0, 0.5)
    for step in (0, 5):
        file = temporary_file(tmp_path, 1, step)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    delete_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*epoch*")) == ["epoch=0000"]


def test_a_checkpoint_that_cannot_be_read_now_stays_where_it_is(tmp_path, monkeypatch):
    """A passing error of a network disk must not cost the run a good checkpoint."""
    first, second = keep(tmp_path, 0, 0.5), keep(tmp_path, 1, 0.5)

    def fail_once(path):
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(checkpoints, "hash_file", fail_once)
    found = verify_checkpoints(tmp_path)
    assert (found.finished, found.damaged) == ((second,), ())
    assert verify_checkpoints(tmp_path).finished == (first, second)
