"""Room for folds side by side, from the size of a cluster."""

import pytest

from ophnet_ray.distributed.resources import ClusterSize, Resources
from ophnet_ray.train.fold_room import count_room

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "use_gpu", "placement", "room"),
    [
        pytest.param((4,), (0,), 1, False, "PACK", 4, id="one CPU each"),
        pytest.param((4,), (0,), 2, False, "PACK", 2, id="two CPUs each"),
        pytest.param((16,), (2,), 1, True, "PACK", 2, id="a GPU each"),
        pytest.param((16,), (2,), 2, True, "PACK", 1, id="all GPUs are of one fold"),
        pytest.param((2, 2), (0, 0), 2, False, "STRICT_PACK", 1, id="no fold on two nodes"),
    ],
)
def test_as_many_folds_train_as_the_cluster_has_room_for(
    cpus, gpus, workers, use_gpu, placement, room
):
    cluster = ClusterSize(sum(cpus), sum(gpus), cpus, gpus, is_joined=True, num_cores=2)
    resources = Resources(workers, use_gpu, decode_workers=2, threads_per_worker=1)
    assert count_room(cluster, resources, placement) == room
