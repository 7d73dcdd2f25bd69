"""Pictures of training windows: there before the first epoch ends, naming phases alone."""

import cv2
import pytest
import torch

from ophnet_ray.train import training_pictures
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.training_pictures import caption_windows

pytestmark = pytest.mark.unit


def test_a_run_has_its_pictures_when_its_first_epoch_ends(start, tmp_path):
    directory, found = RunDirectory(tmp_path / "run"), {}

    def look(record):
        for file in (directory.batch_picture, directory.phase_picture):
            found[file.name] = cv2.imread(str(file))

    start("run", look, max_epochs=1, mixup=1.0, glare=0.5)
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


def test_a_picture_that_cannot_be_drawn_is_named_once_and_ends_no_training(start, monkeypatch):
    """The cache may have lost the blocks of a window that the epoch does not read."""

    def fail(manifest, num_per_phase):
        raise OSError("a block is damaged")

    monkeypatch.setattr(training_pictures, "read_examples", fail)
    run, _ = start("run")
    log = run.worker_log(0).read_text()
    assert log.count("a picture of training windows cannot be drawn") == 1
    assert not run.phase_picture.exists()
    assert run.batch_picture.exists()
    assert len(run.read_metrics()) == 2
