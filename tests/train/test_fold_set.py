"""A fold of cross-validation as a run: its rows, its name, and the settings that move neither."""

import re

import pytest

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import UserError
from ophnet_ray.settings_file import dump_config
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import open_run
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.unit


def check(csv_path, folder, **settings):
    return check_input(tiny_config(csv_path, folder, **settings), Console())


def held_out(checked):
    return {row.case_id for row in checked.data.segments if row.split == "val"}


def test_the_runs_of_all_folds_hold_out_each_case_once(color_csv, tmp_path):
    folds = [check(color_csv, tmp_path, folds=3, fold=fold) for fold in (1, 2, 3)]
    cases = [held_out(checked) for checked in folds]
    assert sum(map(len, cases)) == len(set.union(*cases))
    assert set.union(*cases) == {row.case_id for row in folds[0].data.segments}
    # each is a run of its own: other validation cases are other data
    assert len({checked.data.data_hash for checked in folds}) == 3
    assert len({checked.config.identity_hash("") for checked in folds}) == 3


def test_no_setting_moves_a_case_to_another_fold(color_csv, tmp_path):
    other = {"seed": 7, "val_fraction": 0.4, "image_size": 64, "cache_dir": str(tmp_path / "c")}
    one = check(color_csv, tmp_path, folds=3, fold=2)
    two = check(color_csv, tmp_path, folds=3, fold=2, **other)
    assert one.data.segments == two.data.segments
    assert one.data.data_hash == two.data.data_hash


@pytest.mark.parametrize("name", [None, "mine"])
def test_the_folder_of_a_fold_says_which_it_is(color_csv, tmp_path, name):
    checked = check(color_csv, tmp_path, folds=3, fold=2, name=name)
    run = open_run(checked.config, checked.data, Console())
    assert re.fullmatch(rf"{name or 'segments-[0-9a-f]{8}'}-fold2of3", run.directory.name)


def test_a_run_without_folds_keeps_its_name(color_csv, tmp_path):
    config = tiny_config(color_csv, tmp_path)
    assert not {"folds", "fold"} & set(config.identity())
    assert "folds: null" in dump_config(config)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"folds": 1}, "--folds 1: must be 2 to 100"),
        ({"fold": 1}, "--fold 1: must be 1 to the number of --folds"),
        ({"folds": 3, "fold": 4}, "--fold 4: must be 1 to"),
        ({"folds": 3, "fold": 0}, "--fold 0: must be 1 to"),
    ],
)
def test_folds_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        Config().replace_flat(**settings).validate()


def test_more_folds_than_cases_are_refused_in_one_line(color_csv, tmp_path):
    with pytest.raises(UserError, match=r"^--folds 50: 50 folds of \d+ cases; each fold takes"):
        check(color_csv, tmp_path, folds=50, fold=1)


def test_only_one_fold_can_be_a_run(color_csv, tmp_path):
    with pytest.raises(UserError, match=r"--folds 3: only train.py and tune.py take all"):
        check(color_csv, tmp_path, folds=3)
