"""Checkpoints and run directories, compared by the counts of their validation."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.storage.files import upload
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit

NUM_CASES = 7


def write_run(folder, right, *, windows=40, cases=range(NUM_CASES), seed=0, lr=1e-3, **changes):
    """A complete run whose best checkpoint predicts ``right`` windows of each phase rightly."""
    counts = np.array([[[right, windows - right], [windows - right, right]]] * len(cases))
    counts[:, 0] += np.arange(len(cases))[:, None]
    shares = counts / counts.sum(axis=2, keepdims=True)
    payload = make_payload(confusion_by_case=counts, segments_by_case=shares)
    hashes = tuple(sorted(hash_case(f"case{i}") for i in cases))
    config = Config().replace_flat(seed=seed, lr=lr, name=folder.name).to_flat()
    payload = replace(
        payload,
        training=replace(payload.training, val_case_hashes=hashes),
        **{"config": config, **changes},
    )
    run = RunDirectory(folder)
    file = temporary_file(run.checkpoints, 0)
    file.parent.mkdir(parents=True)
    save_checkpoint(file, payload)
    best = commit_checkpoint(run.checkpoints, 0, {"val_macro_f1": 0.5, "val_loss": 1.0})
    run.write_result(RunResult(str(best.file.relative_to(folder)), 1, best.metrics))
    return folder


def compare(tmp_path, *models):
    CompareCommand(models=tuple(map(str, models)), output=str(tmp_path / "comparison")).run()
    return json.loads((tmp_path / "comparison/comparison.json").read_text())


def test_runs_are_compared_by_their_validation_windows(tmp_path, capsys):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 30, lr=2e-3)
    content = compare(tmp_path, a, b)
    (found,) = content["comparisons"]
    assert content["unit"] == "windows"
    assert found["verdict"].startswith("b is better than a: macro-F1 +0.2")
    assert found["p_value"] == pytest.approx(2 / 2**NUM_CASES)
    assert "compares trained models, not settings" in capsys.readouterr().err
    files = [each / "checkpoints/epoch=0000/checkpoint.ckpt" for each in (a, b)]
    (same,) = compare(tmp_path, *files)["comparisons"]
    assert same["scores"] == found["scores"]
    assert same["after"] == "b/checkpoints/epoch=0000/checkpoint.ckpt"
    assert "chose their best epochs" in (tmp_path / "comparison/comparison.html").read_text()


def test_runs_of_a_bucket_are_compared_too(bucket, tmp_path):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 30)
    for path in b.rglob("*"):
        if path.is_file():
            upload(path, bucket.uri(f"compared/b/{path.relative_to(b)}"))
    (found,) = compare(tmp_path, a, bucket.uri("compared/b"))["comparisons"]
    assert found["verdict"].startswith("b is better than a")
    with pytest.raises(UserError, match="compared/missing does not exist"):
        compare(tmp_path, a, bucket.uri("compared/missing"))


def test_a_difference_between_seeds_is_said_to_be_luck(tmp_path):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 30, seed=1)
    assert any("luck of the seed" in note for note in compare(tmp_path, a, b)["notes"])


def test_windows_of_several_sizes_are_compared_by_segments(tmp_path):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 15, windows=20)
    b_content = compare(tmp_path, a, b)
    assert b_content["unit"] == "segments"
    assert b_content["comparisons"][0]["verdict"].startswith("b is better than a")
    c = write_run(tmp_path / "c", 15, windows=20, segment_counts=None)
    with pytest.raises(UserError, match="a, c were validated on different windows"):
        compare(tmp_path, a, c)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_hash": "1" * 64}, "different data (data hashes 00000000 and 11111111)"),
        ({"phases": ("0", "leak")}, "different vocabularies: only a has phases 1; only b has phas"),
        ({"cases": range(1, NUM_CASES + 1)}, "different cases: only a has cases "),
        ({"window_counts": None}, "holds no counts of its validation windows"),
    ],
)
def test_runs_of_other_data_are_refused_and_the_difference_is_named(tmp_path, changes, reason):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 30, **changes)
    with pytest.raises(UserError) as refused:
        compare(tmp_path, a, b)
    assert reason in str(refused.value)


def test_a_run_without_a_checkpoint_and_a_file_that_is_none_are_refused(tmp_path):
    a = write_run(tmp_path / "a", 20)
    (tmp_path / "begun/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="begun has no checkpoint of a whole epoch yet"):
        compare(tmp_path, a, tmp_path / "begun")
    (tmp_path / "x.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"x\.ckpt"):
        compare(tmp_path, a, tmp_path / "x.ckpt")


@pytest.mark.parametrize("checkpoint", ["../b/checkpoints/epoch=0000/checkpoint.ckpt", 3])
def test_a_result_that_leads_out_of_its_run_is_damaged(tmp_path, checkpoint):
    a, b = write_run(tmp_path / "a", 20), write_run(tmp_path / "b", 30)
    RunDirectory(a).write_result(RunResult(checkpoint, 1, {}))
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        compare(tmp_path, a, b)
