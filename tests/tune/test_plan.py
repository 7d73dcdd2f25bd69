"""Checks of a search before anything heavy is loaded."""

import os
import subprocess
import sys

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search, trials_on_this_machine
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("ophnet_ray.tune.plan.cpu_count", lambda: 8)


def test_a_search_has_its_samples_and_a_grid_its_combinations():
    assert plan_search(TuneConfig().replace_flat(num_samples=7)).num_trials == 7
    search = ("lr=choice(0.1,1e-4)", "window_size=choice(8,16,32)")
    grid = TuneConfig().replace_flat(num_samples=7, searcher="grid", search=search)
    assert plan_search(grid).num_trials == 6


def test_settings_as_given_outside_of_the_space_are_one_trial_more():
    search = ("lr=choice(0.1,0.2)", "window_size=choice(8,16,32)")
    grid = TuneConfig().replace_flat(searcher="grid", search=search)
    assert plan_search(grid).num_trials == 7
    ranges = TuneConfig().replace_flat(num_samples=7, search=("lr=loguniform(0.1,0.2)",))
    assert plan_search(ranges).num_trials == 8


@pytest.mark.parametrize(("kind", "first"), [("mstcn", "layers"), ("gru", "channels")])
def test_a_search_over_temporal_models_varies_them_by_default(kind, first):
    plan = plan_search(TuneConfig().replace_flat(temporal=kind, encoder="model.ckpt"))
    assert next(iter(plan.space)) == f"temporal_{first}"
    assert {"temporal_lr", "class_weights"} < plan.space.keys()
    assert plan.num_trials == 20  # the settings as given are among them


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
    assert plan_search(TuneConfig().replace_flat(**settings)).num_local_trials == concurrent


@pytest.mark.usefixtures("eight_cores")
def test_more_trials_than_two_per_core_are_refused():
    with pytest.raises(UserError, match="--max_concurrent 17: this machine holds 16 trials"):
        plan_search(TuneConfig().replace_flat(max_concurrent=17))


REFUSED = """
import sys
import tune
from ophnet_ray.errors import UserError
sys.argv = ["tune.py", *sys.argv[1:]]
try:
    tune.main()
except UserError as error:
    print(error)
    print(*sorted({"lightning", "optuna", "ray", "torch"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        pytest.param(["--search", "lr=choice(0.1,-1)"], "--search lr=", id="impossible value"),
        pytest.param(["--searcher", "grid"], "give lr=choice", id="grid over a range"),
        pytest.param(["--num_samples", "0"], "must be at least 1", id="wrong flag"),
        pytest.param(["--csv_path", "wrong.csv"], "wrong.csv", id="wrong CSV"),
        pytest.param(["--name", "other"], "choose another --name", id="folder of another search"),
    ],
)
def test_wrong_input_is_refused_before_anything_heavy_is_loaded(
    color_csv, tmp_path, flags, complaint
):
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    (tmp_path / "runs/other").mkdir(parents=True)
    (tmp_path / "runs/other/search.yaml").write_text("metric: val_acc\n")
    base = ["--csv_path", str(color_csv), "--storage_path", "runs"]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *base, *flags],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    *answer, loaded = done.stdout.split("\n")[:-1]
    assert complaint in "".join(answer), done
    assert loaded == ""


def test_cores_that_the_process_may_not_use_do_not_count():
    """As under ``taskset``, Slurm or in a container."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert trials_on_this_machine(TuneConfig(), num_trials=8) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_range_of_train_workers_is_refused():
    with pytest.raises(UserError, match="--train_workers 1:2: the trials of a search keep their"):
        plan_search(TuneConfig().replace_flat(train_workers="1:2"))
