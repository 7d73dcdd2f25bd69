"""Ends of a fit: patience, on a worker that trains in this process."""

import pytest

from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.checkpoints import find_checkpoints
from tests.helpers.runs import weights_of

pytestmark = pytest.mark.unit


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
