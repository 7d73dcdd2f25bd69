"""More epochs of a complete run: its folder or its checkpoints, and the same weights as at once."""

import pytest
import torch

from ophnet_ray import OphNetDataModule
from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.lone_worker import fit_once
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.prepare import account_for_rows
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run import open_run
from ophnet_ray.train.shorter_run import continue_shorter_run, is_extended
from ophnet_ray.train.stages import read_result
from tests.helpers.runs import tiny_config, weights_of

pytestmark = pytest.mark.unit


@pytest.fixture
def train(color_csv, color_cache, tmp_path):
    """Train a run on this process's worker, unless it is complete; return it and its epochs."""
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()

    def fit(storage="one", threads=1, **settings):
        config = tiny_config(color_csv, tmp_path / storage, cache_dir=color_cache, **settings)
        checked = check_input(config, Console())
        run = open_run(checked.config, checked.data, Console())
        trained = []
        if is_extended(run) or read_result(run) is None:
            resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=threads)
            continue_shorter_run(run, resources)
            account_for_rows(run, data.manifest, [], resources)
            loop = TrainLoopConfig(run.config, data.manifest, resources, run.directory, "0")
            fit_once(loop, lambda record: trained.append(record["epoch"]))
        return run.directory, trained

    return fit


def last_weights(directory):
    return weights_of(find_checkpoints(directory.checkpoints)[-1].file)


@pytest.mark.parametrize("name", [None, "mine"])
def test_more_epochs_of_a_complete_run_are_those_of_a_run_that_had_them_from_the_start(train, name):
    whole, _ = train("whole", name=name, max_epochs=4)
    short, first = train(name=name, max_epochs=2)
    longer, rest = train(name=name, max_epochs=4)
    assert (first, rest) == ([0, 1], [2, 3])
    expected, found = last_weights(whole), last_weights(longer)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert longer.read_result().scores == whole.read_result().scores
    assert longer.read_result().best_epoch == whole.read_result().best_epoch
    assert train(name=name, max_epochs=4)[1] == [], "it is complete"
    if name is None:
        assert short != longer
        assert train(max_epochs=2)[1] == [], "the shorter run stays as it was"


@pytest.mark.parametrize("settings", [{"lr_schedule": "cosine"}, {"lr_schedule": "one_cycle"}])
def test_a_schedule_over_the_whole_run_starts_anew(train, settings):
    train(max_epochs=1, **settings)
    assert train(max_epochs=2, **settings)[1] == [0, 1]


def test_only_a_complete_run_of_the_same_settings_is_continued(train):
    short, _ = train(max_epochs=1)
    assert train(max_epochs=2, lr=1e-3)[1] == [0, 1]
    short.result.unlink()
    assert train(max_epochs=3, seed=42)[1] == [0, 1, 2]


def test_a_run_of_other_resources_is_not_continued_and_keeps_its_result(train):
    train(max_epochs=1)
    assert train(threads=2, max_epochs=2)[1] == [0, 1], "another number of threads adds otherwise"
    named, _ = train(name="mine", max_epochs=1)
    with pytest.raises(UserError, match="give --threads_per_worker 1 to resume it"):
        train(threads=2, name="mine", max_epochs=2)
    assert named.read_result() is not None
    assert train(name="mine", max_epochs=1)[1] == [], "it is as complete as before"
