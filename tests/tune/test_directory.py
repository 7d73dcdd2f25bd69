"""The folder of a search: its identity, and one folder per trial."""

import json

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage.records import dump_yaml_record
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.space import parse_search_space
from ophnet_ray.tune.trial import write_trial_end
from tests.helpers.searches import ITEMS

pytestmark = pytest.mark.unit


def test_another_space_under_the_same_name_is_refused_with_the_difference(tmp_path):
    search = SearchDirectory(tmp_path)
    config = TuneConfig()
    search.check_same(config, parse_search_space(ITEMS, config), "data")
    more = TuneConfig().replace_flat(num_samples=99, time_budget_s=5.0, max_concurrent=3)
    search.check_same(more, parse_search_space(ITEMS, more), "data")
    other = parse_search_space([*ITEMS[:2], "class_weights=choice(none)"], config)
    with pytest.raises(UserError, match="choose another --name") as refused:
        search.check_same(config.replace_flat(max_epochs=7), other, "data")
    assert "max_epochs 30 -> 7" in str(refused.value)
    assert "choice(none)" in str(refused.value)


def test_a_trial_that_begins_again_has_not_ended(tmp_path):
    search = SearchDirectory(tmp_path)
    run = search.start_trial(0, {"lr": 0.1})
    write_trial_end(run, "failed", 0, "the loss is not finite")
    assert search.trials()[0].state == "failed"
    search.start_trial(0, {"lr": 0.1})
    assert search.trials()[0].state == "unfinished"
    assert json.loads((run.path / "trial.json").read_text())["settings"] == {"lr": 0.1}


def test_another_share_of_the_machine_is_the_same_search(tmp_path):
    search, config = SearchDirectory(tmp_path), TuneConfig()
    space = parse_search_space(ITEMS, config)
    search.check_same(config, space, "data")
    search.check_same(config.replace_flat(threads_per_worker=3), space, "data")
    with pytest.raises(
        UserError, match=r"settings \(the rows of the CSV, their split or the videos\)"
    ):
        search.check_same(config, space, "other")


def test_a_search_with_the_default_spelled_out_goes_on(tmp_path):
    """Earlier versions wrote it down as another setting."""
    search, config = SearchDirectory(tmp_path), TuneConfig()
    space = parse_search_space(ITEMS, config)
    search.check_same(config, space, "data")
    text = search.identity.read_text().partition("\n")[2] + "checkpoint_metric: val_macro_f1\n"
    search.identity.write_bytes(dump_yaml_record(text))
    search.check_same(config.replace_flat(checkpoint_metric="val_macro_f1"), space, "data")


def test_a_search_that_varies_a_setting_ignores_its_own_value(tmp_path):
    search, config = SearchDirectory(tmp_path), TuneConfig()
    space = parse_search_space(ITEMS, config)
    search.check_same(config, space, "data")
    search.check_same(config.replace_flat(lr=0.5), space, "data")


def test_trials_are_read_by_number_and_repeats_by_seed(tmp_path):
    search = SearchDirectory(tmp_path)
    for number in (11, 2):
        search.start_trial(number, {"lr": number / 100})
    search.start_trial(2, {"lr": 0.02}, seed=43)
    assert [trial.number for trial in search.trials()] == [2, 11]
    assert [trial.settings["lr"] for trial in search.trials()] == [0.02, 0.11]
    (repeat,) = search.repeats()
    assert (repeat.number, repeat.seed, repeat.name) == (2, 43, "0002-seed=43")
    assert all(trial.seed is None for trial in search.trials())
