"""The gain of a search, in words."""

import numpy as np
import pytest

from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.ranking import rank_trials
from ophnet_ray.tune.report import describe_gain
from tests.helpers.searches import write_trial

pytestmark = pytest.mark.unit

METRIC = "val_macro_f1"
BASE = {"lr": 0.001}
"""Settings of trial 0."""
RIGHT = np.array([10, 11, 12, 13, 10, 11, 12, 13])


def ranked_trials(tmp_path, *trials):
    """Write trials, given as windows predicted rightly by case, and rank them."""
    search = SearchDirectory(tmp_path)
    for number, (right_by_case, state) in enumerate(trials):
        write_trial(search, number, right_by_case, state)
    return rank_trials(search.trials(), METRIC)


def test_the_gain_is_over_the_settings_as_given_on_cases_that_did_not_choose(tmp_path):
    rows = ranked_trials(tmp_path, (RIGHT, "finished"), (RIGHT + 4, "finished"))
    assert describe_gain(rows, rows[0], BASE, METRIC) == (
        "+0.200 over the settings as given (trial 0000) on validation cases that did not choose "
        "it, 95 % interval +0.200 to +0.200"
    )


def test_settings_as_given_are_known_by_their_values_not_by_their_number(tmp_path):
    rows = ranked_trials(tmp_path, (RIGHT + 4, "finished"), (RIGHT, "finished"))
    given_last = describe_gain(rows, rows[0], {"lr": 0.002}, METRIC)
    assert "over the settings as given (trial 0001)" in given_last
    assert "were not tried" in describe_gain(rows, rows[0], {"lr": 5.0}, METRIC)


@pytest.mark.parametrize("state", ["stopped", "failed", "unfinished"])
def test_there_is_no_gain_over_a_trial_that_is_not_finished(tmp_path, state):
    rows = ranked_trials(tmp_path, (RIGHT, state), (RIGHT + 4, "finished"))
    text = describe_gain(rows, rows[0], BASE, METRIC)
    assert text == (
        f"the settings as given (trial 0000) are {state}: there is no gain over them to report"
    )


def test_there_is_no_gain_over_a_trial_of_other_cases(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, RIGHT, cases="abcdefgh")
    write_trial(search, 1, RIGHT + 4, cases="bcdefghi")
    rows = rank_trials(search.trials(), METRIC)
    text = describe_gain(rows, rows[0], BASE, METRIC)
    assert text == (
        "the settings as given (trial 0000) were scored on other validation cases: there is no "
        "gain to report"
    )


def test_a_single_case_cannot_confirm_a_gain(tmp_path):
    rows = ranked_trials(tmp_path, (RIGHT[:1], "finished"), (RIGHT[:1] + 4, "finished"))
    text = describe_gain(rows, rows[0], BASE, METRIC)
    assert text.startswith("+0.200 over the settings as given (trial 0000) on the cases that chose")
    assert "interval" not in text


def test_a_search_that_finds_nothing_better_says_so(tmp_path):
    rows = ranked_trials(tmp_path, (RIGHT, "finished"), (RIGHT - 4, "finished"))
    assert "no trial was better" in describe_gain(rows, rows[0], BASE, METRIC)
