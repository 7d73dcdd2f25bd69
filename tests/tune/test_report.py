"""The gain of a search, in words."""

from pathlib import Path

import pytest

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.ranking import RankedTrial
from ophnet_ray.tune.report import describe_gain
from ophnet_ray.tune.trial import Trial

pytestmark = pytest.mark.unit


def ranked(number, score, gain=None):
    run = RunDirectory(Path(f"trials/{number:04d}"))
    return RankedTrial(Trial(number, {}, "finished", (), run), score, gain=gain)


def test_the_gain_is_over_the_settings_as_given_with_its_interval():
    rows = [ranked(3, 0.9), ranked(0, 0.8, Interval(-0.01, 0.2))]
    text = "+0.100 over the settings as given (trial 0000)"
    assert describe_gain(rows, rows[0]) == f"{text}, 95 % interval over cases -0.010 to +0.200"


def test_a_winner_by_its_repeats_has_no_interval_of_another_trial():
    rows = [ranked(3, 0.9), ranked(2, 0.88), ranked(0, 0.8, Interval(-0.01, 0.2))]
    assert describe_gain(rows, rows[1]) == "+0.080 over the settings as given (trial 0000)"


def test_a_search_that_finds_nothing_better_says_so():
    rows = [ranked(0, 0.8), ranked(1, 0.7)]
    assert "no trial was better" in describe_gain(rows, rows[0])


@pytest.mark.parametrize("rows", [[ranked(1, 0.7)], [ranked(1, 0.7), ranked(0, None)]])
def test_without_a_score_of_trial_0_there_is_no_gain(rows):
    assert describe_gain(rows, rows[0]) == ""
