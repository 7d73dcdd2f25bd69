"""Workers of a run, chosen for a cluster of a given size."""

import pytest

from ophnet_ray.config import Config
from ophnet_ray.distributed.resources import ClusterSize, choose_resources, local_cpus
from ophnet_ray.distributed.video_pool import ActorShare
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit


def cluster(cpus=(8,), gpus=(0,), is_joined=True, num_cores=4):
    return ClusterSize(sum(cpus), sum(gpus), tuple(cpus), tuple(gpus), is_joined, num_cores)


def choose(size, **settings):
    return choose_resources(Config().replace_flat(**settings), size)


def test_a_run_takes_all_gpus_or_one_cpu_worker():
    on_gpus = choose(cluster(gpus=(2, 1)))
    assert (on_gpus.train_workers, on_gpus.use_gpu) == (3, True)
    on_cpus = choose(cluster())
    assert (on_cpus.train_workers, on_cpus.use_gpu) == (1, False)
    assert not choose(cluster(gpus=(2,)), use_gpu="false").use_gpu


@pytest.mark.parametrize(
    ("placement", "workers"), [("PACK", 6), ("STRICT_PACK", 4), ("STRICT_SPREAD", 2)]
)
def test_a_strict_placement_limits_the_workers(placement, workers):
    size = cluster(cpus=(4, 2))
    strict = {"placement_strategy": placement}
    assert choose(size, train_workers=workers, **strict).train_workers == workers
    with pytest.raises(UserError, match=f"the cluster holds {workers}"):
        choose(size, train_workers=workers + 1, **strict)


@pytest.mark.parametrize(
    ("size", "settings", "says"),
    [
        (cluster(), {"use_gpu": "true"}, "--use_gpu true: the cluster has no GPU"),
        (cluster(), {"strategy": "fsdp"}, "--strategy fsdp needs GPUs"),
        (cluster(cpus=()), {}, "the cluster has no CPU to work on"),
        (cluster(), {"train_workers": 9}, "--train_workers 9: the cluster holds 8 (8 logical CPUs"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused_with_numbers(size, settings, says):
    with pytest.raises(UserError) as refused:
        choose(size, **settings)
    assert says in str(refused.value)


def test_a_range_of_workers_needs_room_for_the_smallest_number():
    elastic = choose(cluster(cpus=(2,)), train_workers="2:4")
    assert (elastic.train_workers, elastic.sizes, elastic.begun_with) == (4, (2, 3, 4), 4)
    with pytest.raises(UserError, match="--train_workers 3:4: the cluster holds 2"):
        choose(cluster(cpus=(2,)), train_workers="3:4")


def test_on_a_ray_of_its_own_the_workers_share_the_cores():
    own = cluster(is_joined=False, num_cores=4)
    assert choose(own).threads_per_worker == 4
    assert choose(own, train_workers=2).threads_per_worker == 2
    assert choose(own, num_workers=6).decode_workers == 4
    assert choose(own).decode_workers == 4
    assert choose(own, threads_per_worker=3).threads_per_worker == 3


def test_on_a_cluster_each_worker_has_its_cpu():
    assert choose(cluster()).threads_per_worker == 1
    assert choose(cluster(), num_workers=6).decode_workers == 6


def test_as_many_videos_are_decoded_at_a_time_as_the_cluster_has_cpus():
    assert choose(cluster(cpus=(64, 64))).decode_workers == 128


def test_nodes_that_join_decode_too_up_to_the_workers_that_were_asked_for():
    assert choose(cluster(cpus=(1,))).decode_limit is None
    asked = choose(cluster(cpus=(1,)), num_workers=6)
    assert (asked.decode_workers, asked.decode_limit) == (1, 6)
    # the logical CPUs of a Ray of our own are more than the cores, and do not grow
    own = cluster(cpus=(9,), is_joined=False, num_cores=4)
    assert choose(own).decode_limit == 4
    assert choose(own, num_workers=6).decode_limit == 4


def test_runs_side_by_side_decode_in_as_many_workers_as_one_alone():
    each = choose(cluster(cpus=(4, 4))).shared_by(3)
    assert (each.decode_workers, each.decode_limit, each.num_sharing) == (2, 2, 3)
    assert choose(cluster(cpus=(2,))).shared_by(4).decode_workers == 1
    assert choose(cluster()).shared_by(1) == choose(cluster())


@pytest.mark.parametrize(
    ("num_gpus", "wanted", "num_sharing"), [(2, 2, 2), (4, 8, 2), (5, 6, 2), (1, 3, 4), (8, 2, 1)]
)
def test_encoders_of_runs_side_by_side_fit_beside_the_gpus_of_the_others(
    num_gpus, wanted, num_sharing
):
    total = {"GPU": num_gpus, "CPU": 64.0}
    share = ActorShare.of_cluster(total, wanted, num_sharing)
    assert share.num_actors == wanted
    assert 0 < share.num_gpus * share.num_actors * num_sharing <= num_gpus


def test_a_ray_of_its_own_takes_two_workers_per_core_at_most():
    own = cluster(cpus=(32,), is_joined=False, num_cores=4)
    assert choose(own, train_workers=8).train_workers == 8
    with pytest.raises(UserError, match="the cluster holds 8"):
        choose(own, train_workers=9)


def test_a_local_ray_has_logical_cpus_for_workers_decoders_and_the_driver():
    assert local_cpus(Config().replace_flat(train_workers=2, num_workers=50)) >= 2 + 50 + 1
    assert local_cpus(Config(), concurrent_runs=2) >= 2 + 1 + 1
