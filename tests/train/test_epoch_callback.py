"""Ends of a fit: patience, on a worker that trains in this process."""

import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.lone_worker import fit_alone
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from tests.helpers.runs import tiny_config, weights_of

pytestmark = pytest.mark.unit


@pytest.fixture
def start(color_csv, color_cache, tmp_path):
    """Train in the folder of a name; a report may raise what stops it."""
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()

    def fit(name, report=lambda record: None, **settings):
        config = tiny_config(color_csv, tmp_path, **settings)
        directory = RunDirectory(tmp_path / name)
        directory.create()
        resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)
        loop = TrainLoopConfig(config, data.manifest, resources, directory, "0")
        return directory, fit_alone(loop, report)

    return fit


class KilledError(Exception):
    """An end that the worker does not know of."""


def test_patience_ends_a_run_that_gets_no_better_also_when_it_was_killed_in_between(start):
    """A rate at which nothing is learnt: the best epoch comes early."""
    settings = {"max_epochs": 30, "patience": 2, "lr": 1e-9, "random_shift": 0.0}
    directory, result = start("whole", **settings)
    history = directory.read_metrics()
    ranks = [rank_epoch(record) for record in history]
    best = ranks.index(max(ranks))
    assert len(history) == best + 1 + 2 < 30
    assert result.best_epoch == best + 1

    def die(record):
        if record["epoch"] == len(history) - 1:
            raise KilledError

    with pytest.raises(KilledError):
        start("killed", die, **settings)
    killed, again = start("killed", **settings)
    assert len(killed.read_metrics()) == len(history), "the last epoch is not trained twice"
    assert again.scores == result.scores
    one, other = (find_checkpoints(each.checkpoints)[-1].file for each in (directory, killed))
    assert str(weights_of(one)) == str(weights_of(other))
