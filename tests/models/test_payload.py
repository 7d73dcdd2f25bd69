"""The payload of a checkpoint: what was written comes back, also from older versions."""

import io
import re
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.checkpoint_file import (
    read_payload,
)
from ophnet_ray.models.dynamics import PhaseDynamics
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.payload import CheckpointPayload, SmoothingChoice, describe_settings
from ophnet_ray.models.training_summary import TrainingSummary
from ophnet_ray.models.worker_state import WorkerState
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit


def values_of_first_release():
    """The plain values that versions up to commit 8e23bbc wrote."""
    return {
        "format_version": 1,
        "phases": ["a", "b"],
        "preprocessing": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "color": "RGB",
            "mask": "chroma",
            "image_size": 64,
            "window_size": 16,
            "stride": 8,
        },
        "config": Config().to_flat() | {"lr": 0.5},
        "data_hash": "f" * 64,
        "history": [{"epoch": 0, "val_loss": 1.5}],
        "cases": ["case of a patient"],
        "confusion_by_case": torch.tensor([[[3, 1], [0, 2]]], dtype=torch.int32),
        "train_case_hashes": ["0123456789abcdef"],
        "train_cases_by_phase": [1, 0],
        "dynamics": {
            "first": [1, 0],
            "changes": [[0, 1], [0, 0]],
            "dwell_s": [4.0, 0.0],
            "median_dwell_s": 4.0,
        },
        "workers": [
            {
                "module": {"train_sums": torch.tensor([1.0, 2.0])},
                "loader": {"step": 7},
                "random": {"cpu": torch.tensor([1, 2], dtype=torch.uint8)},
                "seconds": 2.5,
            }
        ],
        "smoothing_choice": {"smooth": "viterbi", "chosen_on": "val", "by": ["frame_accuracy"]},
    }


def assert_same(ours, theirs):
    """Equal values, tensors and arrays included."""
    assert type(ours) is type(theirs)
    if is_dataclass(ours):
        for field in fields(ours):
            assert_same(getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(ours, dict):
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            assert_same(value, theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, np.ndarray | torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours == theirs


def test_the_values_on_disk_are_those_of_the_first_release():
    """Except for the names of the validation cases, which are pseudonyms now."""
    old = values_of_first_release()
    new = CheckpointPayload.from_dict(old, "old.ckpt").to_dict()
    old["val_case_hashes"] = [hash_case(case) for case in old.pop("cases")]
    assert_same(new, old)


def test_a_payload_survives_a_file(tmp_path):
    payload = make_payload(
        history=({"epoch": 0.0},),
        training=TrainingSummary(
            case_hashes=("aa",),
            cases_by_phase=(1, 2),
            val_case_hashes=("bb",),
            dynamics=PhaseDynamics(
                np.array([1, 0]), np.array([[0, 1], [0, 0]]), np.array([1.0, 2.0]), 1.5
            ),
            video_hashes=("9-ff",),
        ),
        workers=(
            WorkerState(
                module={"train_sums": torch.ones(2)},
                loader={"step": 1},
                random={"cpu": torch.get_rng_state()},
                seconds=1.0,
            ),
        ),
        smoothing=SmoothingChoice("median", "val", ("frame_accuracy",)),
        origin=Origin(case_hashes=("cc",), video_hashes=None, licence="mit"),
    )
    save_checkpoint(tmp_path / "a.ckpt", payload)
    assert_same(read_payload(tmp_path / "a.ckpt"), payload)


def draw_counts(num_cases, num_classes):
    """Windows of cases that show four phases each, and their shares of segments."""
    rng = np.random.default_rng(num_cases)
    windows = np.zeros((num_cases, num_classes, num_classes), dtype=np.int64)
    for case in windows:
        case[rng.integers(0, num_classes, 4), rng.integers(0, num_classes, 4)] = [1, 2, 300, 70_000]
    return windows, windows / 7


@pytest.mark.parametrize(("num_cases", "num_classes"), [(2, 3), (50, 52)])
def test_counts_by_case_survive_a_file(num_cases, num_classes, tmp_path):
    windows, segments = draw_counts(num_cases, num_classes)
    payload = make_payload(num_classes, confusion_by_case=windows, segments_by_case=segments)
    save_checkpoint(tmp_path / "a.ckpt", payload)
    read = read_payload(tmp_path / "a.ckpt")
    assert_same(read, payload)
    assert_same(read.validation_counts(), windows)
    assert_same(read.segments_by_case, segments)


def test_the_counts_of_many_cases_take_a_file_no_room_for_the_phases_that_they_do_not_show():
    """Of 1,000 cases of 52 phases, all counts would take 32 MB."""
    windows, segments = draw_counts(1000, 52)
    values = make_payload(52, confusion_by_case=windows, segments_by_case=segments).to_dict()
    content = io.BytesIO()
    torch.save(values, content)
    assert content.tell() < 200_000


def test_an_earlier_version_does_not_take_a_sharp_frame_for_a_mean(tmp_path):
    mean = make_payload()
    sharp = replace(mean.preprocessing, window_image="center")
    payload = make_payload(preprocessing=sharp)
    save_checkpoint(tmp_path / "a.ckpt", payload)
    assert read_payload(tmp_path / "a.ckpt").preprocessing == sharp
    assert payload.to_dict()["format_version"] > 3
    assert mean.to_dict()["format_version"] == 1


def test_a_checkpoint_older_than_the_training_summary_counts_no_case_as_seen():
    values = values_of_first_release()
    for key in ("train_case_hashes", "train_cases_by_phase", "dynamics", "workers"):
        del values[key]
    payload = CheckpointPayload.from_dict(values, "old.ckpt")
    assert_same(payload.training, TrainingSummary.unknown(num_phases=2))
    assert payload.training.cases_by_phase == (0, 0)
    assert payload.workers == ()


def test_a_checkpoint_without_validation_counts_says_so_when_they_are_needed():
    values = values_of_first_release()
    del values["confusion_by_case"]
    payload = CheckpointPayload.from_dict(values, "old.ckpt")
    with pytest.raises(UserError, match="holds no counts of its validation windows"):
        payload.validation_counts()


def test_settings_and_values_of_other_versions_are_left_out():
    values = values_of_first_release()
    values["config"]["a_flag_of_tomorrow"] = 1
    values["preprocessing"]["gamma"] = 2.2
    values["a_key_of_tomorrow"] = "x"
    payload = CheckpointPayload.from_dict(values, "new.ckpt")
    assert payload.settings.training.lr == 0.5
    assert payload.config["a_flag_of_tomorrow"] == 1
    assert payload.preprocessing.mask == "chroma"


def test_paths_are_written_without_their_folders():
    config = Config().replace_flat(
        csv_path="/home/a person/case of a patient/t.csv",
        video_dir="s3://hospital/videos?region=r",
        storage_path="/scratch/runs",
    )
    described = describe_settings(config)
    found = described["csv_path"], described["video_dir"], described["storage_path"]
    assert found == ("t.csv", "videos", "runs")
    assert described["backbone_weights"] is None
    assert described.keys() == config.to_flat().keys()
    assert make_payload(config=described).settings.training == config.training


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 99}, "checkpoint a.ckpt is of a newer ophnet-ray; install that one"),
        ({"phases": None}, "checkpoint a.ckpt is damaged"),
        ({"confusion_by_case": 5}, "checkpoint a.ckpt is damaged"),
        ({"config": "text"}, "checkpoint a.ckpt is damaged"),
    ],
)
def test_a_payload_that_cannot_be_understood_is_refused_in_one_line(changes, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        CheckpointPayload.from_dict(values_of_first_release() | changes, "a.ckpt")
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named():
    values = values_of_first_release()
    del values["data_hash"]
    with pytest.raises(UserError, match=r"a\.ckpt is damaged: it lacks 'data_hash'"):
        CheckpointPayload.from_dict(values, "a.ckpt")
