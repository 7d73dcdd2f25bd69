"""Counts by case of every epoch, which the trials of a search keep."""

import numpy as np
import pytest

from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.epoch_counts import read_epoch_counts, write_epoch_counts
from ophnet_ray.train.run_directory import RunDirectory
from tests.helpers.checkpoints import make_payload

pytestmark = pytest.mark.unit


def test_a_trial_keeps_the_counts_of_every_epoch_and_another_run_does_not(start):
    trial, _ = start("trial", keeps_counts=True, max_epochs=4)
    scores = [record["val_macro_f1"] for record in trial.read_metrics()]
    counts = [read_epoch_counts(trial, epoch) for epoch in range(4)]
    assert [macro_f1_present(each.windows.sum(axis=0)) for each in counts] == scores
    last = read_payload(find_checkpoints(trial.checkpoints)[-1].file)
    assert counts[-1].cases == last.training.val_case_hashes
    np.testing.assert_array_equal(counts[-1].segments, last.segments_by_case)
    alone, _ = start("alone", max_epochs=1)
    assert read_epoch_counts(alone, 0) is None


def test_damaged_counts_are_none_and_are_named(tmp_path, caplog):
    run = RunDirectory(tmp_path)
    write_epoch_counts(run, 0, make_payload())
    assert read_epoch_counts(run, 0).segments is None
    file = run.epoch_counts(0)
    for content in (b"", b"PK", file.read_bytes()[:-30], file.read_bytes().replace(b"a", b"b")):
        file.write_bytes(content)
        caplog.clear()
        assert read_epoch_counts(run, 0) is None
        assert str(file) in caplog.text


def test_counts_of_which_a_bit_flipped_are_none_or_the_same(tmp_path, caplog):
    """Within the compressed bytes a flip is an error of the decompressor, elsewhere of the ZIP."""
    run = RunDirectory(tmp_path)
    write_epoch_counts(run, 0, make_payload())
    file = run.epoch_counts(0)
    content, written = file.read_bytes(), read_epoch_counts(run, 0)
    num_damaged = 0
    for bit in range(0, 8 * len(content), 23):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        counts = read_epoch_counts(run, 0)
        if counts is None:
            num_damaged += 1
        else:
            assert counts.cases == written.cases
            np.testing.assert_array_equal(counts.windows, written.windows)
    assert num_damaged > 50
    assert caplog.text.count(f"{file} is damaged") == num_damaged
