"""Checks of a search before anything heavy is loaded."""

import subprocess
import sys

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search

pytestmark = pytest.mark.unit


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)


def test_a_search_has_its_samples_and_a_grid_its_combinations():
    assert plan_search(TuneConfig().replace_flat(num_samples=7)).num_trials == 7
    search = ("lr=choice(0.1,0.2)", "window_size=choice(8,16,32)")
    grid = TuneConfig().replace_flat(num_samples=7, searcher="grid", search=search)
    assert plan_search(grid).num_trials == 6


def test_a_grid_over_a_range_is_refused():
    with pytest.raises(UserError, match=r"give lr=choice\(\.\.\.\)"):
        plan_search(TuneConfig().replace_flat(searcher="grid"))


def test_a_trial_takes_one_worker_unless_more_are_asked_for():
    assert plan_search(TuneConfig()).config.training.train_workers == 1
    asked = TuneConfig().replace_flat(train_workers=2)
    assert plan_search(asked).config.training.train_workers == 2


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("settings", "concurrent"),
    [
        pytest.param({}, 8, id="a core per train worker"),
        pytest.param({"train_workers": 3}, 2, id="several workers per trial"),
        pytest.param({"num_samples": 3}, 3, id="no more than there are trials"),
        pytest.param({"max_concurrent": 16}, 16, id="two trials per core, if asked for"),
        pytest.param({"max_concurrent": 1}, 1, id="fewer, if asked for"),
    ],
)
def test_this_machine_runs_as_many_trials_as_its_cores_hold(settings, concurrent):
    assert plan_search(TuneConfig().replace_flat(**settings)).max_concurrent == concurrent


@pytest.mark.usefixtures("eight_cores")
def test_more_trials_than_two_per_core_are_refused():
    with pytest.raises(UserError, match="--max_concurrent 17: this machine holds 16 trials"):
        plan_search(TuneConfig().replace_flat(max_concurrent=17))


def test_an_impossible_search_is_refused_before_anything_heavy_is_loaded():
    code = """
import sys
from ophnet_ray.errors import UserError
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search
try:
    plan_search(TuneConfig().replace_flat(search=("lr=choice(0.1,-1)",)))
except UserError:
    print(*sorted({"ray", "torch", "optuna", "lightning"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
