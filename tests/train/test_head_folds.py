"""Frame models of a run with a temporal model: the cases that each sees, and those it encodes."""

import re
import shutil
from pathlib import Path

import pytest

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.row_hashes import hash_segments
from ophnet_ray.errors import UserError
from ophnet_ray.train.head_folds import assign_encoders, list_frame_trainings
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import open_run
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.unit


def check(csv_path, folder, **settings):
    return check_input(tiny_config(csv_path, folder, temporal="gru", **settings), Console())


def cases_of(rows, split):
    return {row.case_id for row in rows if row.split == split}


def test_the_features_of_each_training_case_come_from_an_encoder_that_has_not_seen_it(
    color_csv, tmp_path
):
    checked = check(color_csv, tmp_path, cross_fit=2)
    run = open_run(checked.config, checked.data, Console())
    trainings = list(list_frame_trainings(run.config, run.data))
    encoders = assign_encoders(run)
    assert [each.encoder.name for each in encoders] == [
        str(run.directory.path / each.file) for each in trainings
    ]
    whole, *folds = trainings
    everything, val = (cases_of(run.data.segments, split) for split in ("train", "val"))
    assert whole.data is run.data
    assert cases_of(encoders[0].rows, "val") == val
    seen, encoded = [], []
    for training, (_, rows) in zip(folds, encoders[1:], strict=True):
        seen.append(cases_of(training.data.segments, "train"))
        encoded.append(cases_of(rows, "train"))
        assert cases_of(training.data.segments, "val") == val
        assert training.data.phases == run.data.phases
        assert seen[-1] | encoded[-1] == everything
        assert not seen[-1] & encoded[-1]
    assert set.union(*encoded) == everything
    # each is a run of its own, under the hash of all its rows, as in earlier versions
    assert len({each.data.data_hash for each in trainings}) == 3
    for training in trainings:
        assert training.data.data_hash == hash_segments(training.data.segments)
    assert len({each.suffix for each in trainings}) == 3


def test_a_video_that_goes_after_the_table_was_read_is_named_and_makes_no_other_run(
    color_csv, tmp_path
):
    folder = shutil.copytree(color_csv.parent, tmp_path / "data")
    checked = check(folder / color_csv.name, tmp_path, cross_fit=2)
    run = open_run(checked.config, checked.data, Console())
    video = run.data.segments.of_splits(["val"]).videos[0]
    Path(video).unlink()
    with pytest.raises(UserError, match=rf"^{re.escape(video)} is gone since the table was read; "):
        list(list_frame_trainings(run.config, run.data))


def test_without_folds_one_encoder_gives_all_features(color_csv, tmp_path):
    checked = check(color_csv, tmp_path)
    run = open_run(checked.config, checked.data, Console())
    assert len(list(list_frame_trainings(run.config, run.data))) == 1
    ((_, rows),) = assign_encoders(run)
    assert list(rows) == [row for row in run.data.segments if row.split != "test"]


def test_more_folds_than_training_cases_are_refused_before_any_training(color_csv, tmp_path):
    checked = check(color_csv, tmp_path, cross_fit=9)
    with pytest.raises(UserError, match=r"--cross_fit 9: 9 folds of \d training cases"):
        locate_data(checked.data, checked.config)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"cross_fit": 1, "temporal": "gru"}, "--cross_fit 1: must be 2 to 100"),
        ({"cross_fit": 3}, "--cross_fit is for a temporal model"),
        (
            {"cross_fit": 3, "temporal": "gru", "encoder": "model.ckpt"},
            "--cross_fit trains the encoders itself; leave --encoder out",
        ),
    ],
)
def test_folds_that_make_no_sense_are_refused(flags, says):
    with pytest.raises(UserError, match=says):
        Config().replace_flat(**flags).validate()


def test_another_number_of_folds_is_another_run(color_csv, tmp_path):
    hashes = {check(color_csv, tmp_path, cross_fit=k).config.identity_hash("") for k in (2, 3)}
    hashes.add(check(color_csv, tmp_path).config.identity_hash(""))
    assert len(hashes) == 3
