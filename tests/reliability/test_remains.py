"""Remains of commands are compared without the time, and by every weight."""

import json

import pytest
import torch

from tests.reliability.remains import find_differences, list_remains

pytestmark = pytest.mark.unit


def write_run(folder, seconds=1.0, loss=0.5, weight=1.0):
    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    record = {"epoch": 0, "val_loss": loss, "seconds": seconds}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    torch.save({"state_dict": {"w": torch.tensor([weight])}}, run / "model.ckpt")
    return folder


def compare(whole, other):
    return find_differences(list_remains(whole), list_remains(other))


def test_the_time_of_an_epoch_is_no_difference(tmp_path):
    whole = write_run(tmp_path / "whole")
    assert not compare(whole, write_run(tmp_path / "killed", seconds=9.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": 1.0000001}, "differs: runs/run/model.ckpt (w: "),
        ({"loss": 0.6}, "differs: runs/run/metrics.jsonl (val_loss: 0.5 / 0.6)"),
    ],
)
def test_a_weight_and_a_score_are_compared_to_the_last_bit(tmp_path, change, says):
    found = compare(write_run(tmp_path / "whole"), write_run(tmp_path / "killed", **change))
    assert [text for text in found if text.startswith(says)] == found
    assert len(found) == 1


def test_what_is_left_or_missing_is_named(tmp_path):
    whole, killed = write_run(tmp_path / "whole"), write_run(tmp_path / "killed")
    (killed / "runs" / "run" / "metrics.jsonl").rename(killed / "runs" / "run" / ".metrics")
    assert compare(whole, killed) == [
        "missing: runs/run/metrics.jsonl",
        "left: runs/run/.metrics",
    ]
