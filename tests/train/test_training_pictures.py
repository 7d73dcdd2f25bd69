"""Pictures of training windows: there before the first epoch ends, naming phases alone."""

import cv2
import pytest
import torch

from ophnet_ray import OphNetDataModule
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.lone_worker import fit_alone
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.training_pictures import caption_windows
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.unit


def test_a_run_has_its_pictures_when_its_first_epoch_ends(color_csv, color_cache, tmp_path):
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()
    config = tiny_config(color_csv, tmp_path, max_epochs=1, mixup=1.0, glare=0.5)
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    found = {}

    def look(record):
        for file in (directory.batch_picture, directory.phase_picture):
            found[file.name] = cv2.imread(str(file))

    resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)
    fit_alone(TrainLoopConfig(config, data.manifest, resources, directory, "0"), look)
    batch, sheet = found.values()
    assert batch.shape[1] > 4 * 128, "a batch of 4 windows"
    assert sheet.shape[1] > 3 * 4 * 80, "4 windows of each of 3 phases"
    (events,) = directory.tensorboard.glob("events*")
    content = events.read_bytes()
    assert b"train/augmented_batch" in content
    assert b"train/windows_by_phase" in content


def test_a_mixed_window_is_captioned_by_both_phases():
    batch = {"label": torch.tensor([0, 1, 0]), "own_share": torch.tensor([0.25, 1.0, 0.5])}
    batch["other_label"] = torch.tensor([1, 0, 0])
    assert caption_windows(batch, ("cut", "sew")) == [["25% cut", "75% sew"], ["sew"], ["cut"]]
    assert caption_windows({"label": batch["label"]}, ("cut", "sew")) == [["cut"], ["sew"], ["cut"]]
