"""A decoder from its choice on validation cases to predictions: ``--keep_choice``, then default."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ophnet_ray.cli.evaluate import EvaluateCommand
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.inference.prediction_folder import (
    PredictionFolder,
    PredictionRequest,
    predict_into,
)
from ophnet_ray.inference.prediction_job import PredictionResult
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
    write_predictions,
)
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.decoder import Decoder
from ophnet_ray.models.payload import PAYLOAD_KEY, SmoothingChoice
from tests.helpers.predictions import sign_predictions
from tests.helpers.videos import COLORS, write_color_dataset

pytestmark = pytest.mark.unit

PHASES = tuple(sorted(COLORS))
RATE = 2.0


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_color_dataset(tmp_path_factory.mktemp("cases"), num_cases=6)


@pytest.fixture
def own(checkpoint, tmp_path):
    """The checkpoint of a model that has seen none of the cases."""
    path = tmp_path / "model.ckpt"
    content, payload = torch.load(checkpoint, weights_only=True), read_payload(checkpoint)
    unseen = replace(payload, training=replace(payload.training, case_hashes=()))
    torch.save(content | {PAYLOAD_KEY: unseen.to_dict()}, path)
    return path


def predict_with_flicker(cases, seed=0):
    """Of each video of 9 s: its three phases, with two confident errors of one frame."""
    rng = np.random.default_rng(seed)
    for video_id in dict.fromkeys(s.case_id for s in read_annotations(cases)):
        phases = [s.phase for s in read_annotations(cases) if s.case_id == video_id]
        labels = np.repeat([PHASES.index(phase) for phase in phases], 6)
        wrong = [rng.integers(1, 5), 6 + rng.integers(1, 5)]
        labels[wrong] = (labels[wrong] + 1) % 3
        probabilities = np.full((18, 3), 0.1, dtype=np.float32)
        probabilities[np.arange(18), labels] = 0.8
        yield VideoPrediction(video_id, np.arange(18) / RATE, probabilities)


def write_flicker(path, cases, **info):
    rows = [(prediction, prediction.labels) for prediction in predict_with_flicker(cases)]
    write_predictions(path, rows, PredictionInfo(PHASES, RATE, "f" * 64, **info))
    return path


def evaluate(checkpoint, cases, tmp_path, predictions, **flags):
    sign_predictions(predictions, [checkpoint])
    command = EvaluateCommand(
        checkpoint=(str(checkpoint),),
        csv_path=str(cases),
        output=str(tmp_path / "evaluation"),
        predictions=str(predictions),
        split="all",
        **flags,
    )
    command.run()
    content = json.loads((tmp_path / "evaluation/scores.json").read_text())
    return content, {score["name"]: score["value"] for score in content["scores"]}


def predict(checkpoint, cases, tmp_path, **flags):
    """``predict`` with the flickering predictions in the place of the network's."""

    def write_parts(job, videos):
        parts = {}
        for prediction in predict_with_flicker(cases):
            parts[prediction.video_id] = Path(job.parts) / f"{prediction.video_id}.parquet"
            write_predictions(
                parts[prediction.video_id], [(prediction, prediction.labels)], job.info
            )
        return PredictionResult(parts, {})

    values = {"frame_rate": RATE, "causal": False, "smooth": None} | flags
    videos = {s.case_id: s.video for s in read_annotations(cases)}
    folder = PredictionFolder(tmp_path / "predictions")
    request = PredictionRequest(checkpoint=str(checkpoint), videos=videos, **values)
    return predict_into(folder, request, write_parts), folder


def test_a_decoder_that_gains_is_kept_and_used_by_default(own, cases, tmp_path, capsys):
    path = write_flicker(tmp_path / "p.parquet", cases)
    content, before = evaluate(own, cases, tmp_path, path, keep_choice=True)
    assert (content["smooth"], content["tuning"]["kept"]) == (
        "none",
        content["smoothing"]["smooth"],
    )
    assert content["tuning"]["gain"]["low"] > 0
    assert "on cases that did not choose" in " ".join(capsys.readouterr().out.split())
    kept = read_payload(own).smoothing
    assert kept.to_dict() == content["smoothing"]
    assert kept.gain == content["tuning"]["gain"]
    content, after = evaluate(own, cases, tmp_path, path)
    assert content["smooth"] == kept.smooth
    assert after["frame_accuracy"] > before["frame_accuracy"] + 0.05
    summary, folder = predict(own, cases, tmp_path)
    assert summary.smooth == read_info(folder.predictions).smooth == kept.smooth
    flicker = {p.video_id: p.labels.tolist() for p in predict_with_flicker(cases)}
    for prediction, labels in read_predictions(folder.predictions):
        assert labels.tolist() != flicker[prediction.video_id]


def test_a_temperature_is_kept_for_probabilities_and_changes_no_label(own, cases, tmp_path, capsys):
    """The flickering model says 0.8 and is right in 16 of 18 frames: it is not sure enough."""
    path = write_flicker(tmp_path / "p.parquet", cases)
    plain, folder = predict(own, cases, tmp_path)
    before = dict_of(folder)
    content, scores = evaluate(own, cases, tmp_path, path)
    assert read_payload(own).temperature == 1.0
    found = content["calibration"]
    assert found["temperature"] == pytest.approx(0.75, abs=0.02)
    sides = {
        side: {score["name"]: score for score in found[side]["scores"]}
        for side in ("before", "after")
    }
    name = "expected_calibration_error"
    assert sides["before"][name]["value"] == pytest.approx(scores[name], abs=1e-7)
    for name, gain in found["gain"].items():
        assert sides["after"][name]["value"] < sides["before"][name]["value"]
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert sum(each["frames"] for each in found["before"]["reliability"]) == 6 * 18
    page = (tmp_path / "evaluation/report.html").read_text()
    assert "reliability diagram after the temperature" in page
    evaluate(own, cases, tmp_path, path, keep_temperature=True)
    assert "NLL -0." in " ".join(capsys.readouterr().out.split())
    kept = read_payload(own).temperature_choice
    assert kept.temperature == found["temperature"]
    assert kept.gain["value"] == found["gain"]["negative_log_likelihood"]["value"]
    tempered, folder = predict(own, cases, tmp_path)
    assert tempered.smooth == plain.smooth
    assert read_info(folder.predictions).temperature == kept.temperature
    for video_id, (prediction, labels) in dict_of(folder).items():
        old, old_labels = before[video_id]
        assert labels.tolist() == old_labels.tolist()
        expected = old.probabilities ** (1 / kept.temperature)
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)
    # predictions at the temperature are scored as those without: it is taken out, and in again
    for given in (path, folder.predictions):
        content, after = evaluate(own, cases, tmp_path, given, smooth="viterbi")
        assert after["expected_calibration_error"] < scores["expected_calibration_error"]
        assert content["calibration"]["temperature"] == pytest.approx(found["temperature"])
        (note,) = [note for note in content["notes"] if "chose the temperature" in note]
        assert note.startswith("6 of 6 cases chose the temperature 0.7")


def dict_of(folder):
    return {p.video_id: (p, labels) for p, labels in read_predictions(folder.predictions)}


def keep(path, look_ahead_s=None):
    decoder = Decoder(method="viterbi", evidence_scale=0.5)
    write_smoothing_choice(path, SmoothingChoice("tuned", "val", (), decoder, look_ahead_s))


def test_a_decoder_is_used_with_the_look_ahead_that_it_was_tuned_with(own, cases, tmp_path):
    keep(own, look_ahead_s=1.0)
    summary, folder = predict(own, cases, tmp_path, causal=True, look_ahead_s=1.0)
    info = read_info(folder.predictions)
    assert (summary.smooth, info.causal, info.look_ahead_s) == ("tuned", True, 1.0)
    for flags in ({}, {"causal": True}):
        with pytest.raises(UserError, match=r"chosen with a look-ahead of 1 s, not with .*none"):
            predict(own, cases, tmp_path, **flags)
    causal = write_flicker(tmp_path / "p.parquet", cases, causal=True)
    content, _ = evaluate(own, cases, tmp_path, causal, smooth="tuned", look_ahead_s=1.0)
    assert content["look_ahead_s"] == 1.0
    assert "tuned" in content["smoothing_scores"]


def test_a_choice_made_on_whole_videos_is_not_used_live_unless_it_is_asked_for(
    own, cases, tmp_path
):
    """A median that looks back alone scores below no smoothing where one that looks ahead gains."""
    write_smoothing_choice(own, SmoothingChoice("median", "val", ()))
    assert predict(own, cases, tmp_path)[0].smooth == "median"
    with pytest.raises(UserError, match="chosen with the whole video in view, not with a look-ah"):
        predict(own, cases, tmp_path, causal=True)
    assert predict(own, cases, tmp_path, causal=True, smooth="median")[0].smooth == "median"


def test_a_kept_decoder_is_chosen_again_for_another_look_ahead(own, cases, tmp_path):
    keep(own)
    causal = write_flicker(tmp_path / "p.parquet", cases, causal=True)
    with pytest.raises(UserError, match="and --keep_choice, or use --smooth none"):
        evaluate(own, cases, tmp_path, causal, look_ahead_s=1.0)
    content, _ = evaluate(own, cases, tmp_path, causal, look_ahead_s=1.0, keep_choice=True)
    assert content["smooth"] == "none"
    assert read_payload(own).smoothing.look_ahead_s == 1.0


def test_scores_on_the_cases_that_chose_the_smoothing_are_named_as_such(
    own, cases, tmp_path, capsys
):
    path = write_flicker(tmp_path / "p.parquet", cases)
    evaluate(own, cases, tmp_path, path, keep_choice=True)
    assert "chose the smoothing" not in capsys.readouterr().err
    content, _ = evaluate(own, cases, tmp_path, path)
    (note,) = [note for note in content["notes"] if "chose the smoothing" in note]
    assert note.startswith("6 of 6 cases chose the smoothing")
    content, _ = evaluate(own, cases, tmp_path, path, smooth="none")
    assert not [note for note in content["notes"] if "chose the smoothing" in note]


def test_without_a_kept_decoder_there_is_no_tuned_smoothing(own, cases, tmp_path):
    with pytest.raises(UserError, match="keeps no tuned decoder; `evaluate --keep_choice`"):
        predict(own, cases, tmp_path, smooth="tuned")


def test_a_choice_of_an_earlier_version_is_still_used(own, cases, tmp_path):
    choice = SmoothingChoice("viterbi", "val", ("frame_accuracy",), knows_look_ahead=False)
    write_smoothing_choice(own, choice)
    for flags in ({}, {"causal": True}):
        summary, _ = predict(own, cases, tmp_path, **flags)
        assert summary.smooth == "viterbi"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"look_ahead_s": -1.0, "causal": True}, "--look_ahead_s -1: must be"),
        ({"look_ahead_s": float("inf"), "causal": True}, "--look_ahead_s inf: must be"),
        ({"look_ahead_s": 5.0}, "--look_ahead_s 5: needs --causal"),
    ],
)
def test_a_look_ahead_that_cannot_be_used_is_refused(own, cases, flags, says):
    command = EvaluateCommand(checkpoint=(str(own),), csv_path=str(cases), **flags)
    with pytest.raises(UserError, match=says):
        command.run()
