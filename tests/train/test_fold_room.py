"""Room for folds side by side, from the size of a cluster."""

from contextlib import contextmanager

import pytest

from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import ClusterSize, Resources, choose_resources
from ophnet_ray.errors import UserError
from ophnet_ray.train import fold_driver, fold_room
from ophnet_ray.train.disk_space import checkpoint_bytes
from ophnet_ray.train.fold_driver import train_folds
from ophnet_ray.train.fold_room import count_room
from tests.helpers.runs import tiny_config
from tests.helpers.small_disk import small_disk

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "use_gpu", "placement", "room"),
    [
        pytest.param((4,), (0,), 1, False, "PACK", 4, id="one CPU each"),
        pytest.param((4,), (0,), 2, False, "PACK", 2, id="two CPUs each"),
        pytest.param((16,), (2,), 1, True, "PACK", 2, id="a GPU each"),
        pytest.param((16,), (2,), 2, True, "PACK", 1, id="all GPUs are of one fold"),
        pytest.param((1, 16), (4, 0), 1, True, "PACK", 1, id="CPUs and GPUs of one node"),
        pytest.param((3, 3), (0, 0), 2, False, "STRICT_PACK", 2, id="no fold on two nodes"),
        pytest.param((8, 8), (0, 0), 2, False, "STRICT_SPREAD", 8, id="each fold on two nodes"),
        pytest.param((8, 1), (0, 0), 2, False, "STRICT_SPREAD", 1, id="the smaller node decides"),
    ],
)
def test_as_many_folds_train_as_the_cluster_has_room_for(
    cpus, gpus, workers, use_gpu, placement, room
):
    cluster = ClusterSize(sum(cpus), sum(gpus), cpus, gpus, is_joined=True, num_cores=2)
    resources = Resources(workers, use_gpu, decode_workers=2, threads_per_worker=1)
    assert count_room(cluster, resources, placement) == room


@contextmanager
def joined(*_):
    """Stand in for the connection to a cluster."""
    yield "a cluster"


@pytest.fixture
def decoded(monkeypatch):
    """Let ``train_folds`` find a cluster of 64 CPUs; the list of what is decoded on it."""
    done = []
    cluster = ClusterSize(64, 0, (64,), (0,), is_joined=True, num_cores=2)
    monkeypatch.setattr(fold_driver, "find_running_head", lambda: "10.0.0.1:6379")
    monkeypatch.setattr(fold_room, "connect", joined)
    monkeypatch.setattr(fold_room, "read_cluster_size", lambda: cluster)
    monkeypatch.setattr(
        fold_room, "plan_resources", lambda config, _: choose_resources(config, cluster)
    )
    monkeypatch.setattr(fold_room, "check_cluster", lambda *_: None)
    monkeypatch.setattr(fold_room, "decode_rows", lambda *_: done.append("all"))
    return done


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "resnet_no_such"}, "resnet_no_such"),
        ({"backbone": "vit_base_patch14_dinov2"}, "^fold 1 of 3: --image_size 64"),
        ({"train_workers": 20}, "^--train_workers 20: only 12 training segments"),
        ({"sync_batchnorm": True}, "^--sync_batchnorm: torch has it on GPUs only"),
    ],
)
def test_wrong_input_of_folds_is_refused_before_videos_are_decoded(
    color_csv, tmp_path, decoded, settings, says
):
    config = tiny_config(color_csv, tmp_path, folds=3, image_size=64, **settings)
    with pytest.raises(UserError, match=says):
        train_folds(config.replace_flat(output_pth="model.ckpt"), Console())
    assert decoded == []


def test_the_checkpoints_of_all_folds_need_room(color_csv, tmp_path, decoded):
    config = tiny_config(color_csv, tmp_path, folds=3, backbone="resnet18", max_epochs=1)
    size = checkpoint_bytes(config, num_phases=3)
    with small_disk(tmp_path / "disk", 6 * size) as disk:  # a fold alone needs half of it
        config = config.replace_flat(
            storage_path=str(disk / "runs"),
            cache_dir=str(tmp_path / "cache"),
            output_pth="model.ckpt",
        )
        with pytest.raises(
            UserError,
            match=rf"^{6 * size:,} bytes for 2 checkpoints \(--storage_path\) of each of 3 folds",
        ):
            train_folds(config, Console())
    assert decoded == []
