"""Fixtures: a small data set, and the checkpoint of a network with random weights."""

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.dynamics import learn_dynamics
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import PAYLOAD_KEY, Preprocessing
from ophnet_ray.models.training_summary import TrainingSummary
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.videos import COLORS, write_color_dataset

PHASES = sorted(COLORS)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_color_dataset(tmp_path_factory.mktemp("videos"), num_cases=4)


@pytest.fixture(scope="session")
def checkpoint(dataset, tmp_path_factory):
    """A checkpoint as a training run writes it, with random weights."""
    return save_random(dataset, tmp_path_factory.mktemp("checkpoint") / "model.ckpt")


@pytest.fixture(scope="session")
def motion_checkpoint(dataset, tmp_path_factory):
    """The same of a network that sees motion, too."""
    path = tmp_path_factory.mktemp("motion") / "motion.ckpt"
    return save_random(dataset, path, window_image="mean+motion")


@pytest.fixture(scope="session")
def other_checkpoint(dataset, tmp_path_factory):
    """The same of another seed."""
    return save_random(dataset, tmp_path_factory.mktemp("other") / "other.ckpt", seed=1)


def save_random(dataset, path, window_image="mean", seed=0):
    torch.manual_seed(seed)
    network = SurgicalPhaseClassificationModel(
        3, "test_resnet", False, image_size=32, window_image=window_image
    )
    config = Config().replace_flat(
        backbone="test_resnet", pretrained=False, image_size=32, window_image=window_image
    )
    segments = read_annotations(dataset)
    labels = {phase: label for label, phase in enumerate(PHASES)}
    payload = make_payload(
        phases=tuple(PHASES),
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        training=TrainingSummary(
            case_hashes=(hash_case("v0"),),
            cases_by_phase=(1, 1, 1),
            val_case_hashes=(),
            dynamics=learn_dynamics(segments, labels),
        ),
        confusion_by_case=np.zeros((1, 3, 3), dtype=np.int64),
    )
    save_checkpoint(path, payload, network)
    return path


@pytest.fixture
def split_checkpoint(checkpoint, tmp_path):
    """A function that writes the checkpoint of a training on given cases."""

    def write(train, val, **settings):
        content = torch.load(checkpoint, weights_only=True)
        payload = content[PAYLOAD_KEY]
        payload["train_case_hashes"] = sorted(map(hash_case, train))
        payload["val_case_hashes"] = sorted(map(hash_case, val))
        payload["config"] |= settings
        torch.save(content, tmp_path / "split.ckpt")
        return tmp_path / "split.ckpt"

    return write
