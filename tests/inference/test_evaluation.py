"""From a checkpoint to scores, audits and exports; and prediction that is killed and goes on."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.cli.evaluate import EvaluateCommand
from ophnet_ray.config import DataConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.run_data import read_run_data
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case, hash_file
from ophnet_ray.inference.ensemble import (
    build_ensemble,
    hash_ensemble,
    read_ensemble,
    read_models,
    write_ensemble,
)
from ophnet_ray.inference.evaluation import EvaluationRequest
from ophnet_ray.inference.evaluation import evaluate as evaluate_split
from ophnet_ray.inference.export import MAX_DIFFERENCE, export_onnx, export_safetensors
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
    write_predictions,
)
from ophnet_ray.inference.trained_model import choose_smoothing, load_model
from ophnet_ray.metrics.temperature import temper
from ophnet_ray.models.checkpoint_file import (
    read_payload,
    write_choices,
    write_smoothing_choice,
)
from ophnet_ray.models.checkpoints import commit_checkpoint, find_checkpoints, temporary_file
from ophnet_ray.models.payload import SmoothingChoice
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.train.run_mirror import RunMirror
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.predictions import predict_here, sign_predictions
from tests.helpers.videos import COLORS, write_color_dataset, write_variant, write_video
from tests.helpers.waiting import wait_until

PHASES = sorted(COLORS)


def write_perfect_predictions(path, dataset, videos, wrong_from=None):
    """Of the given videos at 2 frames/s: 9 s of three phases."""
    truth = {v: [s.phase for s in read_annotations(dataset) if s.case_id == v] for v in videos}
    rows = []
    for video_id, phases in truth.items():
        labels = np.repeat([PHASES.index(phase) for phase in phases], 6)
        probabilities = np.full((18, 3), 0.05, dtype=np.float32)
        probabilities[np.arange(18), labels] = 0.9
        prediction = VideoPrediction(video_id, np.arange(18) / 2, probabilities)
        rows.append((prediction, prediction.labels))
    write_predictions(path, rows, PredictionInfo(tuple(PHASES), 2.0, "f" * 64))


def evaluate(checkpoint, dataset, tmp_path, predictions, **flags):
    values = {"split": "all", "predictions": str(predictions)} | flags
    given = checkpoint if isinstance(checkpoint, tuple) else (checkpoint,)
    if values["predictions"] is not None:
        sign_predictions(Path(values["predictions"]), given)
    command = EvaluateCommand(
        checkpoint=tuple(map(str, given)),
        csv_path=str(dataset),
        output=str(tmp_path / "evaluation"),
        **values,
    )
    command.run()
    content = json.loads((tmp_path / "evaluation/scores.json").read_text())
    return content, {score["name"]: score for score in content["scores"]}


@pytest.fixture
def unseen(dataset, tmp_path):
    """The table without the case of the training, v0, beside the same videos."""
    shutil.copytree(dataset.parent, tmp_path / "unseen")
    table = tmp_path / "unseen" / dataset.name
    table.write_text("".join(line for line in dataset.open() if "v0" not in line))
    return table


@pytest.mark.unit
def test_a_video_without_predictions_is_wrong_in_every_frame(checkpoint, dataset, tmp_path, capsys):
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0", "v1", "v2"])
    content, scores = evaluate(checkpoint, dataset, tmp_path, path)
    assert content["num_units"] == 4 * 18
    assert scores["frame_accuracy"]["value"] == 0.75
    assert scores["video_accuracy"]["value"] == 0.75
    assert scores["segmental_edit"]["value"] == 0.75
    assert scores["frame_accuracy"]["low"] < 0.75 < scores["frame_accuracy"]["high"]
    assert np.asarray(content["confusion"])[:, 3].sum() == 18
    out, err = capsys.readouterr()
    assert "frame_accuracy:" in out
    assert "best_smoothing:" in out
    assert "smoothing" not in err  # the choice is an answer, not a warning
    assert "trained on 1 case(s) of the all split (v0)" in " ".join(err.split())
    reason = "no prediction in p.parquet"
    assert content["videos_without_prediction"] == {"v3": reason}
    note = f"no prediction for 1 of 4 videos: wrong in every frame (v3: {reason})"
    assert note in content["notes"]
    assert note in " ".join(err.split())
    page = (tmp_path / "evaluation/report.html").read_text()
    assert note in page
    assert page.count(reason) > 1, "in the list of what is left out"


@pytest.mark.unit
def test_two_evaluations_are_compared_as_they_were_scored(checkpoint, dataset, tmp_path):
    """The second model lacks a video, whose frames count as wrong."""
    given, folders = {"one": ["v0", "v1", "v2", "v3"], "two": ["v0", "v1", "v2"]}, []
    for name, videos in given.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        write_perfect_predictions(folders[-1] / "p.parquet", dataset, videos)
        evaluate(checkpoint, dataset, folders[-1], folders[-1] / "p.parquet", smooth="median")
    paths = tuple(str(folder / "evaluation") for folder in folders)
    CompareCommand(models=paths, output=str(tmp_path / "both")).run()
    content = json.loads((tmp_path / "both/comparison.json").read_text())
    assert content["models"] == ["one/evaluation", "two/evaluation"]
    for name, scored in zip(("before", "after"), paths, strict=True):
        card = json.loads((Path(scored) / "scores.json").read_text())
        values = {score["name"]: score["value"] for score in card["scores"]}
        (found,) = content["comparisons"]
        assert {score["name"]: score[name] for score in found["scores"]} == pytest.approx(values)
    assert found["num_differing"] == 1
    assert found["cases"][0]["case"] == "v3"


@pytest.mark.unit
def test_the_page_shows_frames_of_the_worst_videos_wherever_they_stand_in_the_table(
    checkpoint, tmp_path
):
    """Ten videos are predicted rightly; the last two of the table have no right frame."""
    dataset = write_color_dataset(tmp_path / "videos", num_cases=12)
    order = list(dict.fromkeys(s.case_id for s in read_annotations(dataset)))
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, order)
    rows = [(p, labels) for p, labels in read_predictions(path)]
    for prediction, _ in rows[10:]:
        prediction.probabilities[:] = np.roll(prediction.probabilities, 1, axis=1)
    write_predictions(path, rows, read_info(path))
    evaluate(checkpoint, dataset, tmp_path, path)
    page = (tmp_path / "evaluation/report.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 2, "of each 9 s video two frames, 5 s apart"


@pytest.mark.unit
def test_a_video_that_shared_its_name_with_another_is_found_by_its_folder(checkpoint, tmp_path):
    """``predict`` saw A/v0.mp4 and B/v0.mp4 and named them by path; the split holds B alone."""
    dataset = write_color_dataset(tmp_path / "B", num_cases=1)
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0"])
    ((right, labels),) = read_predictions(path)
    wrong = np.roll(right.probabilities, 1, axis=1)
    rows = [
        (VideoPrediction("/elsewhere/A/v0.mp4", right.times_s, wrong), labels),
        (VideoPrediction("/elsewhere/B/v0.mp4", right.times_s, right.probabilities), labels),
    ]
    write_predictions(path, rows, read_info(path))
    content, scores = evaluate(checkpoint, dataset, tmp_path, path)
    assert scores["frame_accuracy"]["value"] == 1
    assert content["videos_without_prediction"] == {}


@pytest.mark.unit
def test_smoothing_is_off_where_it_gains_nothing_and_the_choice_is_kept(
    checkpoint, unseen, tmp_path
):
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, unseen, ["v1", "v2", "v3"])
    own = tmp_path / "model.ckpt"
    own.write_bytes(checkpoint.read_bytes())
    content, _ = evaluate(own, unseen, tmp_path, path, keep_choice=True)
    assert content["smoothing"] == {
        "smooth": "none",
        "chosen_on": "all",
        "by": ["frame_accuracy", "macro_f1_present", "video_jaccard"],
        "look_ahead_s": None,
        "case_hashes": sorted(hash_case(f"v{i}") for i in range(1, 4)),
    }
    assert set(content["smoothing_scores"]) == {"none", "median", "viterbi"}
    assert choose_smoothing(read_payload(own)) == "none"
    before, after = load_model(checkpoint), load_model(own)
    images = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(before.predict(images), after.predict(images))


@pytest.mark.unit
def test_an_ensemble_keeps_its_choices_in_its_own_file(
    checkpoint, other_checkpoint, motion_checkpoint, unseen, tmp_path, capsys
):
    models = (checkpoint, other_checkpoint)
    before = [model.read_bytes() for model in models]
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, unseen, ["v1", "v2", "v3"])
    evaluate(models, unseen, tmp_path, path, keep_choice=True, keep_temperature=True)
    assert [model.read_bytes() for model in models] == before
    evaluate(models, unseen, tmp_path, path)  # the same members: the choices stay
    kept = read_ensemble(tmp_path / "evaluation/ensemble.yaml")
    assert kept.smoothing.smooth == "none"
    assert kept.temperature.temperature < 1
    content, _ = evaluate(tmp_path / "evaluation/ensemble.yaml", unseen, tmp_path, path)
    assert content["temperature"] == kept.temperature.temperature
    # other members: the file with the choices is set aside
    own, more = tmp_path / "evaluation/ensemble.yaml", (*models, motion_checkpoint)
    with pytest.raises(UserError, match=r"ensemble\.yaml is one of the given models; choose anoth"):
        evaluate((own, motion_checkpoint), unseen, tmp_path, path)
    assert read_ensemble(own) == kept
    evaluate(more, unseen, tmp_path, path)
    assert read_ensemble(own).temperature is None
    assert read_ensemble(own.with_name("ensemble.1.yaml")) == kept
    said = " ".join(capsys.readouterr().err.split())
    assert "a temperature that `evaluate --keep_temperature` kept; it is now" in said
    # nothing of these is worth to be kept
    evaluate(models, unseen, tmp_path, path)
    assert not own.with_name("ensemble.2.yaml").exists()
    own.write_text(own.read_text().replace("weight: 1.0", "weight: 2.0"))
    evaluate(models, unseen, tmp_path, path)
    assert "weight: 2.0" in own.with_name("ensemble.2.yaml").read_text()


@pytest.mark.unit
def test_cases_that_chose_the_members_are_named_beside_their_scores(
    checkpoint, other_checkpoint, unseen, tmp_path, capsys
):
    members = [checkpoint, other_checkpoint]
    file, path = tmp_path / "e.yaml", tmp_path / "p.parquet"
    write_ensemble(file, build_ensemble(members, case_hashes=[hash_case("v1"), hash_case("x")]))
    write_perfect_predictions(path, unseen, ["v1", "v2", "v3"])
    content, _ = evaluate(file, unseen, tmp_path, path)
    warning = "1 of 3 cases chose the members of the ensemble: their scores say too much"
    assert warning in " ".join(capsys.readouterr().err.split())
    assert warning in " ".join(content["notes"])


@pytest.mark.unit
def test_augmentation_of_given_predictions_is_refused(checkpoint, dataset, tmp_path):
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0"])
    with pytest.raises(UserError, match=r"--tta: --predictions are scored as they are; give"):
        evaluate(checkpoint, dataset, tmp_path, path, tta="windows")


@pytest.mark.unit
def test_an_ensemble_is_compared_by_its_evaluation(checkpoint, other_checkpoint, tmp_path):
    files = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for file in files:
        write_ensemble(file, build_ensemble([checkpoint, other_checkpoint]))
    command = CompareCommand(models=tuple(map(str, files)), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"a\.yaml is an ensemble; score each .* evaluate` first"):
        command.run()


@pytest.mark.unit
def test_folds_are_not_scored_on_cases_that_each_of_them_left_to_the_others(
    split_checkpoint, tmp_path
):
    dataset = write_color_dataset(tmp_path / "videos", num_cases=4)
    header, *rows = plain = dataset.read_text().splitlines()
    splits = ["val" if row.startswith("v3") else "train" for row in rows]
    own = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
    dataset.write_text("\n".join([f"{header},split", *own]))
    folds = (["v0", "v1"], ["v2", "v3"]), (["v2", "v3"], ["v0", "v1"])
    for number, (train, val) in enumerate(folds):
        split_checkpoint(train, val).rename(tmp_path / f"{number}.ckpt")
    models = (tmp_path / "0.ckpt", tmp_path / "1.ckpt")
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0", "v1", "v2", "v3"])
    refused = pytest.raises(UserError, match=r"--split val: each case was in the training of a mem")
    with refused:
        evaluate(models, dataset, tmp_path, path, split="val")
    for flag in ("keep_choice", "keep_temperature"):
        says = f"--{flag}: 4 of the cases .* training of a member .v0, v1, v2 and 1 more.; training"
        with pytest.raises(UserError, match=says):
            evaluate(models, dataset, tmp_path, path, **{flag: True})
    dataset.write_text("\n".join(plain))
    with refused:
        evaluate(models, dataset, tmp_path, path, split="val")
    content, _ = evaluate(models, dataset, tmp_path, path, split="train")
    assert "scored: train, 4 cases (the split of the training)" in content["notes"]
    _, scores = evaluate(models, dataset, tmp_path, path)
    assert scores["frame_accuracy"]["value"] == 1


@pytest.mark.unit
def test_folds_are_scored_on_a_table_of_other_cases(split_checkpoint, dataset, tmp_path):
    for number in range(2):
        split_checkpoint([f"x{number}"], [f"x{1 - number}"]).rename(tmp_path / f"{number}.ckpt")
    models = (tmp_path / "0.ckpt", tmp_path / "1.ckpt")
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0", "v1", "v2", "v3"])
    content, _ = evaluate(models, dataset, tmp_path, path, split="val", keep_temperature=True)
    assert content["split"] == "all", "the table names no split"
    assert read_ensemble(tmp_path / "evaluation/ensemble.yaml").temperature is not None


@pytest.mark.unit
def test_training_cases_choose_nothing_for_a_checkpoint(checkpoint, dataset, tmp_path):
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0", "v1", "v2", "v3"])
    before = checkpoint.read_bytes()
    with pytest.raises(
        UserError, match=r"--keep_choice: 1 of the cases .* of the model .v0.; trai"
    ):
        evaluate(checkpoint, dataset, tmp_path, path, keep_choice=True)
    assert checkpoint.read_bytes() == before


@pytest.mark.unit
def test_a_choice_kept_in_a_run_of_a_bucket_reaches_every_machine(
    bucket, checkpoint, unseen, tmp_path
):
    here, there = (RunMirror(tmp_path / name, bucket.uri("kept/run")) for name in ("one", "two"))
    here.fetch()
    own = temporary_file(here.folder / "checkpoints", 0)
    own.parent.mkdir(parents=True)
    shutil.copy(checkpoint, own)
    own = commit_checkpoint(here.folder / "checkpoints", 0, {"val_loss": 1.0}).file
    here.send_checkpoints()
    shutil.copytree(here.folder, tmp_path / "copied by hand")
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, unseen, ["v1", "v2", "v3"])
    in_bucket = bucket.uri("kept/run/checkpoints/epoch=0000/checkpoint.ckpt")
    with pytest.raises(UserError, match=r"checkpoint.ckpt lies in a bucket; to keep a choice, giv"):
        # it would be kept in a copy on this machine
        evaluate(in_bucket, unseen, tmp_path, path, keep_choice=True)
    evaluate(own, unseen, tmp_path, path, keep_choice=True)
    write_smoothing_choice(
        tmp_path / "copied by hand/checkpoints/epoch=0000/checkpoint.ckpt",
        SmoothingChoice("viterbi", "val", ()),
    )
    for machine in (here, there):
        machine.fetch()  # as the next call of train.py does
        (found,) = find_checkpoints(machine.folder / "checkpoints")
        assert read_payload(found.file).smoothing.smooth == "none"


@pytest.mark.unit
def test_videos_are_predicted_where_no_predictions_are_given(checkpoint, dataset, tmp_path):
    asked = []

    def predict(job, videos):
        asked.append((job.info.frame_rate, sorted(videos)))
        return predict_here(job, videos)

    request = EvaluationRequest(
        checkpoint=str(checkpoint),
        source="segments.csv",
        split="val",
        frame_rate=2.0,
        causal=False,
        smooth=None,
        predictions=None,
        keep_choice=False,
    )
    folder = PredictionFolder(tmp_path / "evaluation")
    result = evaluate_split(folder, request, read_annotations(dataset), predict)
    (rate, videos) = asked[0]
    assert rate == 2.0
    assert result.card.num_videos == len(videos) > 0
    assert result.card.num_units == 18 * len(videos)
    assert result.smooth == "none"
    assert json.loads(folder.scores.read_text())["num_units"] == result.card.num_units


@pytest.mark.unit
def test_what_cannot_be_scored_or_kept_is_refused_before_prediction(checkpoint, dataset, tmp_path):
    def never(job, videos):
        pytest.fail("a wrong request must be refused before anything is predicted")

    def refuse(says, segments, **changes):
        values = {"frame_rate": 2.0, "keep_choice": False, "checkpoint": str(checkpoint)} | changes
        request = EvaluationRequest(
            source="segments.csv",
            split="all",
            causal=False,
            smooth=None,
            predictions=None,
            **values,
        )
        with pytest.raises(UserError, match=says):
            evaluate_split(PredictionFolder(tmp_path / "evaluation"), request, segments, never)

    segments = read_annotations(dataset)
    later = [replace(segment, start_s=0.5, end_s=3.0) for segment in segments]
    refuse("no frame time lies in an annotated segment", later, frame_rate=0.3)
    folder = tmp_path / "run/checkpoints"
    own = temporary_file(folder, 0)
    own.parent.mkdir(parents=True)
    shutil.copy(checkpoint, own)
    own = commit_checkpoint(folder, 0, {"val_loss": 1.0}).file
    own.with_name("manifest.json").write_text('{"sha256": "of another file"}')
    unseen = [segment for segment in segments if segment.case_id != "v0"]
    refuse("is damaged: it does not have its checksum", unseen, checkpoint=own, keep_choice=True)
    (tmp_path / "evaluation/scores.json").mkdir(parents=True)
    refuse(r"--output: .*scores\.json is a folder", segments)


def case_ids_of(rows, split):
    return sorted({row.case_id for row in rows if row.split == split})


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(4))
def test_the_command_scores_the_split_that_training_made(
    split_checkpoint, dataset, tmp_path, capsys, seed
):
    """After ``--missing_videos skip``, whatever was missing then, and with rows that are new."""
    here = tmp_path / "videos"
    shutil.copytree(dataset.parent, here)
    (here / f"v{seed}.mp4").unlink()
    data = DataConfig(video_dir=str(here), missing_videos="skip")
    trained = read_run_data(str(dataset), data, seed, lambda _: None).segments
    train, val = case_ids_of(trained, "train"), case_ids_of(trained, "val")
    checkpoint = split_checkpoint(train, val, seed=seed, missing_videos="skip")
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0", "v1", "v2", "v3"])
    content, _ = evaluate(checkpoint, dataset, tmp_path, path, split="val")
    said = "val, 1 case (the split of the training; 1 case unknown to it left out)"
    assert said in " ".join(capsys.readouterr().out.split())
    assert content["num_cases"] == len(val) == 1
    assert f"scored: {said}" in content["notes"]
    content, _ = evaluate(checkpoint, dataset, tmp_path, path, split="train")
    assert content["num_cases"] == len(train) == 2


@pytest.mark.unit
def test_the_command_scores_an_outside_table_whole(split_checkpoint, tmp_path, capsys):
    checkpoint = split_checkpoint(["x1", "x2"], ["x3"])
    for num_cases, cases in ((1, "1 case"), (4, "4 cases")):
        dataset = write_color_dataset(tmp_path / f"videos{num_cases}", num_cases=num_cases)
        path = tmp_path / "p.parquet"
        write_perfect_predictions(path, dataset, [f"v{i}" for i in range(num_cases)])
        content, _ = evaluate(checkpoint, dataset, tmp_path, path, split="val")
        said = f"all, {cases} (the whole table: the checkpoint knows none of its cases)"
        assert said in " ".join(capsys.readouterr().out.split())
        assert (content["num_cases"], content["split"]) == (num_cases, "all")
    with pytest.raises(UserError, match="--split train: the checkpoint was trained on no case"):
        evaluate(checkpoint, dataset, tmp_path, path, split="train")


@pytest.mark.unit
def test_smoothing_without_dynamics_and_a_split_without_rows_are_refused(
    checkpoint, dataset, tmp_path
):
    save_checkpoint(tmp_path / "clips.ckpt", make_payload(3, phases=tuple(PHASES)))
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0"])
    with pytest.raises(UserError, match=r"--smooth viterbi: .* trimmed clips"):
        evaluate(tmp_path / "clips.ckpt", dataset, tmp_path, path, smooth="viterbi")
    with pytest.raises(UserError, match=r"--split test: the CSV has no such rows"):
        evaluate(checkpoint, dataset, tmp_path, path, split="test")


@pytest.mark.unit
def test_predictions_of_other_phases_are_refused(checkpoint, dataset, tmp_path):
    path = tmp_path / "p.parquet"
    prediction = VideoPrediction("v0", np.arange(1.0), np.ones((1, 2), np.float32))
    write_predictions(path, [(prediction, prediction.labels)], PredictionInfo(("x", "y"), 1.0, "f"))
    with pytest.raises(UserError, match="phases are not those of the checkpoint"):
        evaluate(checkpoint, dataset, tmp_path, path)


@pytest.mark.unit
@pytest.mark.parametrize("is_old", [False, True])
def test_predictions_of_another_model_are_refused_whatever_it_has_kept(
    checkpoint, dataset, tmp_path, is_old
):
    """Earlier versions wrote no hash of the weights, which a kept choice leaves as it is."""
    own, other, path = tmp_path / "own.ckpt", tmp_path / "other.ckpt", tmp_path / "p.parquet"
    shutil.copy(checkpoint, own)
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {name: each + 1 for name, each in content["state_dict"].items()}
    torch.save(content, other)
    write_perfect_predictions(path, dataset, ["v0", "v1"])
    info = replace(read_info(path), checkpoint_sha256=hash_file(own))
    info = info if is_old else replace(info, weights_sha256=hash_ensemble(read_models(own)))
    write_predictions(path, list(read_predictions(path)), info)
    with pytest.raises(UserError, match=r"another model than --checkpoint .*other.ckpt has made"):
        evaluate(other, dataset, tmp_path, path)
    evaluate(own, dataset, tmp_path, path)
    write_smoothing_choice(own, SmoothingChoice("none", "val", ("frame_accuracy",)))
    assert hash_file(own) != info.checkpoint_sha256
    evaluate(own, dataset, tmp_path, path)


@pytest.mark.unit
def test_a_look_ahead_is_refused_for_predictions_that_saw_the_whole_video(
    checkpoint, dataset, tmp_path
):
    path = tmp_path / "p.parquet"
    write_perfect_predictions(path, dataset, ["v0"])
    with pytest.raises(UserError, match="--look_ahead_s 2: needs --causal, or --predictions that"):
        evaluate(checkpoint, dataset, tmp_path, path, look_ahead_s=2.0)


@pytest.mark.integration
def test_the_exported_model_is_the_same_model_at_its_temperature(checkpoint, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    safetensors = pytest.importorskip("safetensors.torch")
    own = tmp_path / "tempered.ckpt"
    shutil.copy(checkpoint, own)
    write_choices(own, temperature=TemperatureChoice(0.2, "val"))
    model = load_model(own)
    difference = export_onnx(model, tmp_path / "model.onnx")
    print(f"largest difference of a probability: {difference:.1e}")
    assert difference < MAX_DIFFERENCE
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    (found,) = session.run(None, {"pixels": images.transpose(0, 3, 1, 2)})
    plain = load_model(checkpoint).predict(images)
    np.testing.assert_allclose(found, temper(plain, 0.2), atol=1e-4)
    assert np.abs(found - plain).max() > 0.01
    card = export_safetensors(model, own, tmp_path / "st", None)
    assert card["phases"] == PHASES
    weights = safetensors.load_file(tmp_path / "st/model.safetensors")
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(weights[name], tensor)


def predict(checkpoints, videos, output):
    flags = {"--videos": videos, "--output": output, "--frame_rate": 2, "--num_workers": 1}
    flags |= {"--smooth": "viterbi", "--tta": "windows"}
    command = [sys.executable, "-m", "ophnet_ray", "predict", "--causal", "--checkpoint"]
    return subprocess.Popen(
        list(map(str, [*command, *checkpoints, *itertools.chain(*flags.items())])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def write_two_futures(folder):
    """Write ``one`` and ``other``: four seconds of four greys, the same in both, then two more."""
    past = np.repeat([0, 80, 160, 240], 10)
    for name, level in (("one", 40), ("other", 200)):
        levels = np.append(past, np.full(20, level)).astype(np.uint8)
        frames = [np.full((32, 32, 3), level) for level in levels]
        write_video(folder / f"{name}.mkv", frames, codec="ffv1", gop=1)


def check_that_the_past_is_the_same(predictions, num_past):
    found = {p.video_id: (p, labels) for p, labels in read_predictions(predictions)}
    (one, first), (other, second) = found["one"], found["other"]
    assert first[:num_past].tolist() == second[:num_past].tolist()
    pair = one.probabilities, other.probabilities
    np.testing.assert_allclose(*(values[:num_past] for values in pair), atol=1e-6)
    assert not np.allclose(*(values[num_past:] for values in pair))


@pytest.mark.integration
def test_a_killed_prediction_goes_on_past_broken_videos_and_those_that_crash_the_codec(
    ray_session, checkpoint, motion_checkpoint, tmp_path
):
    """Each process that opens one of them dies of a segmentation fault: see worker_site.

    The prediction is causal, too: of two videos the future differs, and what comes before does not.
    It is the mean of two models, under two views.
    """
    videos = tmp_path / "videos"
    write_color_dataset(videos, num_cases=8)
    write_two_futures(videos)
    (videos / "broken.mp4").write_bytes(b"no video")
    output = tmp_path / "out"
    models = (checkpoint, motion_checkpoint)
    killed = predict(models, videos, output)
    wait_until(
        lambda: killed.poll() is not None or list(output.glob("parts/*.parquet")),
        "a video is predicted",
        poll_s=0.01,
    )
    assert killed.poll() is None, killed.communicate()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    # the actor of a dead driver may still finish its video, which then is not among these
    done = {part: part.stat().st_mtime_ns for part in output.glob("parts/*.parquet")}
    print(f"{len(done)} of 30 parts were done when it was killed")
    assert not (output / "predictions.parquet").exists()
    write_variant(videos / "v1.mp4", videos / "crashes-the-codec.mp4", 1)
    again = predict(models, videos, output)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert "10 of 12" in out, err
    assert "(raylet)" not in out
    assert "Warning" not in err
    assert "broken.mp4 is left out" in err
    assert "crashes-the-codec.mp4 is left out: the decoder crashed" in " ".join(err.split())
    rows = read_predictions(output / "predictions.parquet")
    lengths = {p.video_id: len(p.times_s) for p, _ in rows}
    assert lengths == dict.fromkeys((f"v{i}" for i in range(8)), 18) | {"one": 12, "other": 12}
    assert "the decoder crashed" in (output / "report.html").read_text()
    assert {part: part.stat().st_mtime_ns for part in done} == done
    info = read_info(output / "predictions.parquet")
    assert (info.frame_rate, info.causal, info.smooth) == (2, True, "viterbi")
    assert info.tta == ("windows",)
    assert dict(info.members) == {hash_file(each): 0.5 for each in models}
    assert read_ensemble(output / "ensemble.yaml").sha256 == info.checkpoint_sha256
    check_that_the_past_is_the_same(output / "predictions.parquet", num_past=8)
    segments = read_annotations(output / "segments.csv", videos)
    assert {s.case_id for s in segments} == set(lengths)
