"""Shares of a cluster that trials get."""

import pytest

from ophnet_ray.distributed.resources import ClusterSize
from ophnet_ray.errors import UserError
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search
from ophnet_ray.tune.resources import choose_trial_plan

pytestmark = pytest.mark.unit


def cluster_of(num_cpus, num_gpus=0, **fields):
    """Return the size of a cluster of one node, which was joined."""
    size = {
        "cpus_by_node": (num_cpus,),
        "gpus_by_node": (num_gpus,),
        "is_joined": True,
        "num_cores": 2,
    }
    return ClusterSize(num_cpus, num_gpus, **(size | fields))


def plan_on(cluster, num_trials=20, threads_so_far=None, **settings):
    config = plan_search(TuneConfig().replace_flat(**settings)).config
    return choose_trial_plan(config, num_trials, threads_so_far, cluster)


@pytest.mark.parametrize(
    ("cluster", "settings", "concurrent"),
    [
        pytest.param(cluster_of(4), {}, 4, id="a trial trains in the process that drives it"),
        pytest.param(cluster_of(4), {"train_workers": 2}, 1, id="or in workers besides"),
        pytest.param(cluster_of(10), {"train_workers": 2}, 4, id="several workers per trial"),
        pytest.param(cluster_of(64, 8), {}, 8, id="one GPU per worker"),
        pytest.param(cluster_of(64, 8), {"use_gpu": "false"}, 20, id="all CPUs of GPU nodes"),
        pytest.param(cluster_of(64, 8), {"train_workers": 4}, 2, id="several GPUs per trial"),
        pytest.param(cluster_of(2, 8), {}, 2, id="GPUs without enough CPUs"),
        pytest.param(cluster_of(64), {"num_trials": 5}, 5, id="no more than there are trials"),
        pytest.param(cluster_of(64), {"max_concurrent": 3}, 3, id="fewer, if asked for"),
    ],
)
def test_as_many_trials_run_as_the_cluster_holds(cluster, settings, concurrent):
    assert plan_on(cluster, **settings).max_concurrent == concurrent


def test_more_trials_than_the_cluster_holds_are_refused():
    with pytest.raises(UserError, match=r"--max_concurrent 4: the cluster holds 3 .* at most 3"):
        plan_on(cluster_of(3), max_concurrent=4)
    with pytest.raises(UserError, match=r"one trial: the cluster holds 0 .* fewer --train_workers"):
        plan_on(cluster_of(4), train_workers=4)


def test_on_a_ray_of_its_own_the_trials_share_the_cores(monkeypatch):
    monkeypatch.setattr("ophnet_ray.tune.plan.cpu_count", lambda: 8)
    own = cluster_of(16, is_joined=False, num_cores=8)
    assert plan_on(own).max_concurrent == 8
    plan = plan_on(own, max_concurrent=2)
    assert plan.resources.threads_per_worker == plan.base.training.threads_per_worker == 4
    assert plan_on(cluster_of(16)).resources.threads_per_worker == 1


def test_a_resumed_search_keeps_the_threads_of_its_first_trials():
    own = cluster_of(16, is_joined=False, num_cores=8)
    assert plan_on(own, threads_so_far=3).resources.threads_per_worker == 3
    asked_for = plan_on(own, threads_so_far=3, threads_per_worker=5)
    assert asked_for.resources.threads_per_worker == 5
