"""Audits: which windows are taken, what is exchanged, and the files that are written."""

import json

import numpy as np
import pytest
import torch

from ophnet_ray.cli.audit import AuditCommand
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.inference.audit import (
    AuditedWindows,
    audit,
    audit_rivals,
    choose_others,
    mean_colors,
)
from ophnet_ray.inference.audit_result import AuditSettings, write_audit
from ophnet_ray.inference.look_records import FOLDER
from ophnet_ray.storage.files import upload, write_object
from ophnet_ray.storage.numbered_records import read_records
from tests.helpers.videos import write_color_dataset

pytestmark = pytest.mark.unit


def settings_of(folder, **changes):
    values = {"split": "val", "num_workers": 1, "max_windows": 100, "seed": 0} | changes
    return AuditSettings(cache_dir=str(folder / "cache"), **values)


def test_every_window_is_paired_with_one_of_another_phase():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    others = choose_others(labels, np.random.default_rng(0))
    assert sorted(others) == list(range(100))
    assert not (labels[others] == labels).any()


def test_mean_colour_alone_tells_phases_of_one_colour_each_apart():
    labels = np.repeat([0, 1, 2], 20)
    levels = torch.tensor([10, 100, 200], dtype=torch.uint8)[torch.from_numpy(labels)]
    pixels = levels[:, None, None, None].expand(60, 3, 4, 4).clone()
    windows = AuditedWindows(pixels, labels, np.zeros(60, dtype=np.int64))
    assert mean_colors(windows)[0].tolist() == [10, 10, 10]
    majority, forest = audit_rivals(windows, windows, 0, num_classes=3)
    assert majority.accuracy == pytest.approx(1 / 3)
    assert forest.accuracy == 1


def test_an_audit_scores_every_experiment_and_writes_a_page(motion_checkpoint, tmp_path):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=4)
    result = audit(str(motion_checkpoint), read_annotations(dataset), settings_of(tmp_path))
    assert [score.name for score in result.scores] == [
        "as it is",
        "images exchanged",
        "masks exchanged",
        "time shuffled within videos",
        "majority phase of training",
        "mean colour alone (random forest)",
    ]
    assert result.scores[-1].accuracy == 1  # each phase has a colour of its own
    assert all(norm >= 0 for norm in result.gradient_norms.values())
    files = write_audit(result, tmp_path, "model.ckpt on segments.csv")
    content = json.loads(files.scores.read_text())
    assert content["num_windows"] == result.num_units
    assert content["scores"][0]["accuracy"] == result.scores[0].accuracy
    page = files.report.read_text()
    assert "images exchanged" in page
    assert "<script" not in page


def test_windows_are_thinned_out_to_the_maximum(checkpoint, tmp_path):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=4)
    segments = read_annotations(dataset)
    every = audit(str(checkpoint), segments, settings_of(tmp_path))
    few = audit(str(checkpoint), segments, settings_of(tmp_path, max_windows=2))
    assert every.num_units > 2 >= few.num_units > 0


def run_command(checkpoint, dataset, folder, capsys, split="val"):
    command = AuditCommand(
        checkpoint=str(checkpoint),
        csv_path=str(dataset),
        cache_dir=str(folder / "cache"),
        num_workers=1,
        split=split,
        output=str(folder / "audit"),
    )
    command.run()
    out, err = capsys.readouterr()
    return out, " ".join(err.split()), json.loads((folder / "audit/audit.json").read_text())


def test_the_command_audits_the_cases_that_training_held_out(split_checkpoint, tmp_path, capsys):
    """Also when rows are added, and where a video is missing that training skipped."""
    dataset = write_color_dataset(tmp_path / "videos", num_cases=5)
    (tmp_path / "videos/v2.mp4").unlink()
    checkpoint = split_checkpoint(train=["v0", "v2", "v3"], val=["v1"], missing_videos="skip")
    out, err, content = run_command(checkpoint, dataset, tmp_path, capsys)
    said = "val, 1 case (the split of the training; 1 case unknown to it left out)"
    assert said in " ".join(out.split())
    assert content["split_reason"] == said
    assert content["num_windows"] > 0
    assert "1 video is missing, and left out as in training" in err


def test_the_command_audits_an_outside_table_whole_without_simple_models(
    split_checkpoint, tmp_path, capsys
):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=1)
    checkpoint = split_checkpoint(train=["x"], val=["y"])
    out, err, content = run_command(checkpoint, dataset, tmp_path, capsys)
    assert "all, 1 case (the whole table" in " ".join(out.split())
    assert len(content["scores"]) == 4
    assert "the simple models are left out" in err


def test_the_command_warns_of_cases_that_were_trained_on(split_checkpoint, tmp_path, capsys):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=3)
    head, *rows = dataset.read_text().splitlines()
    splits = {"v0": "train", "v1": "val", "v2": "val"}
    dataset.write_text("\n".join([f"{head},split", *(f"{row},{splits[row[:2]]}" for row in rows)]))
    checkpoint = split_checkpoint(train=["v1"], val=["v0"])
    _, err, content = run_command(checkpoint, dataset, tmp_path, capsys)
    assert "trained on 1 case(s) of the val split (v1)" in err
    assert content["split_reason"] == "val, 2 cases (the CSV's split column)"


def test_an_audit_of_test_cases_is_a_look_at_them(split_checkpoint, bucket, tmp_path, capsys):
    """It is counted in the run, also in one in a bucket, of which a copy is read."""
    dataset = write_color_dataset(tmp_path / "videos", num_cases=3)
    head, *rows = dataset.read_text().splitlines()
    splits = {"v0": "train", "v1": "val", "v2": "test"}
    dataset.write_text("\n".join([f"{head},split", *(f"{row},{splits[row[:2]]}" for row in rows)]))
    checkpoint = split_checkpoint(train=["v0"], val=["v1"])
    in_bucket = bucket.uri("audited/runs/one/checkpoints/epoch=0001/checkpoint.ckpt")
    upload(checkpoint, in_bucket)
    write_object(bucket.uri("audited/runs/one/passport.json"), b"{}")
    for look, given in {"first": checkpoint, "second": in_bucket}.items():
        _, err, content = run_command(given, dataset, tmp_path, capsys, split="test")
        assert content["warnings"][0].startswith(f"{look} look at the test cases of this data")
        assert content["warnings"][0] in " ".join(err.split())
    assert read_records(bucket.uri(f"audited/runs/one/{FOLDER}")).keys() == {1}


def test_a_split_without_rows_is_refused(checkpoint, tmp_path):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=4)
    with pytest.raises(UserError, match=r"--split test: the CSV has no such rows"):
        audit(str(checkpoint), read_annotations(dataset), settings_of(tmp_path, split="test"))
