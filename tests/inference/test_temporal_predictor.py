"""Whole videos through a checkpoint that holds encoder and temporal model, without Ray."""

import shutil

import numpy as np
import pytest
import torch

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.evaluation import EvaluationRequest, evaluate
from ophnet_ray.inference.prediction_folder import (
    PredictionFolder,
    PredictionRequest,
    predict_into,
)
from ophnet_ray.inference.prediction_job import build_job
from ophnet_ray.inference.predictions import read_info, read_predictions
from ophnet_ray.inference.smoothing import SMOOTHERS
from ophnet_ray.inference.trained_model import load_frame_model, load_model
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.decoder import Decoder
from ophnet_ray.models.payload import PAYLOAD_KEY, SmoothingChoice
from tests.helpers.heads import save_temporal_checkpoint
from tests.helpers.predictions import predict_here, predict_one
from tests.helpers.videos import COLORS, write_video

pytestmark = pytest.mark.unit

PHASES = sorted(COLORS)
NUM_FRAMES, RATE, CHANGE = 80, 10, 50
"""Frames of a video, frames per second, and the first frame that differs."""


def write_noise(path, future_seed):
    """Write a video in which no frame depends on another; only its end depends on the seed."""
    past, future = draw_noise(CHANGE, 0), draw_noise(NUM_FRAMES - CHANGE, future_seed)
    return write_video(path, [*past, *future], frame_rate=RATE, codec="ffv1", gop=1)


def draw_noise(num_frames, seed):
    """Noise whose mean colour changes every half a second."""
    rng = np.random.default_rng(seed)
    colors = np.repeat(rng.choice([0, 200], (num_frames // 5, 1, 1, 3)), 5, axis=0)
    return (colors + rng.integers(0, 55, (num_frames, 32, 32, 3))).astype(np.uint8)


@pytest.fixture
def source(checkpoint):
    return EncoderSource(name=str(checkpoint))


def head_over(source, tmp_path, **settings):
    network = load_model(source.name).network
    wanted = settings.get("temporal_input", "features")
    num_inputs = 3 if wanted == "log_probs" else network.classifier[0].in_features
    path = tmp_path / "model.ckpt"
    return save_temporal_checkpoint(path, source, ("a", "b", "c"), num_inputs, **settings)


@pytest.mark.parametrize("wanted", ["features", "log_probs"])
@pytest.mark.parametrize("kind", ["mstcn", "gru"])
def test_with_a_causal_model_the_future_of_a_file_changes_nothing_before_it(
    source, tmp_path, kind, wanted
):
    model = head_over(
        source, tmp_path, temporal=kind, causal=True, frame_rate=2.0, temporal_input=wanted
    )
    videos = [write_noise(tmp_path / f"{seed}.mkv", seed) for seed in (1, 2)]
    first, second = (predict_one(model, video, tmp_path, causal=True) for video in videos)
    is_past = first.times_s < CHANGE / RATE
    np.testing.assert_allclose(
        first.probabilities[is_past], second.probabilities[is_past], atol=1e-6
    )
    assert not np.allclose(first.probabilities[~is_past], second.probabilities[~is_past])


@pytest.mark.parametrize("kind", ["mstcn", "gru", None])
def test_no_smoothing_of_a_causal_prediction_sees_the_future(source, tmp_path, kind):
    """With a causal head --causal may be left out: the files say that it is."""
    model = tmp_path / "model.ckpt"
    if kind is None:
        shutil.copy(source.name, model)
    else:
        training = read_payload(source.name).training
        num_inputs = load_model(source.name).network.classifier[0].in_features
        save_temporal_checkpoint(
            model, source, PHASES, num_inputs, training=training, temporal=kind, causal=True,
            frame_rate=8.0, sharpness=5.0,
        )  # fmt: skip
    decoder = Decoder(method="viterbi", evidence_scale=0.3, min_duration=0.25)
    write_smoothing_choice(model, SmoothingChoice("tuned", "val", (), decoder, 0.0))
    videos = {str(seed): str(write_noise(tmp_path / f"{seed}.mkv", seed)) for seed in (1, 2)}
    folder = PredictionFolder(tmp_path / "out")
    differs = []
    for smooth in SMOOTHERS:
        request = PredictionRequest(
            checkpoint=str(model),
            videos=videos,
            frame_rate=8.0,
            causal=kind is None,
            smooth=smooth,
        )
        predict_into(folder, request, predict_here)
        assert read_info(folder.predictions).causal
        (one, first), (_, second) = read_predictions(folder.predictions)
        is_past = one.times_s < CHANGE / RATE
        assert first[is_past].tolist() == second[is_past].tolist(), smooth
        differs.append(first.tolist() != second.tolist())
    assert any(differs)


def test_an_offline_model_uses_the_future_and_refuses_to_be_causal(source, tmp_path):
    model = head_over(source, tmp_path, frame_rate=2.0)
    videos = [write_noise(tmp_path / f"{seed}.mkv", seed) for seed in (1, 2)]
    first, second = (predict_one(model, video, tmp_path) for video in videos)
    before = first.times_s == first.times_s[first.times_s < CHANGE / RATE].max()
    assert not np.allclose(first.probabilities[before], second.probabilities[before])
    with pytest.raises(UserError, match=r"--causal: the temporal model of .* looks ahead"):
        build_job(str(model), tmp_path, 2.0, causal=True)


def test_another_frame_rate_takes_the_features_shown_last(source, tmp_path):
    model = head_over(source, tmp_path, frame_rate=2.0)
    video = write_noise(tmp_path / "v.mkv", 1)
    trained = predict_one(model, video, tmp_path, frame_rate=2.0)
    faster = predict_one(model, video, tmp_path, frame_rate=5.0)
    shown = np.floor(faster.times_s * 2 + 1e-6).astype(int)
    np.testing.assert_array_equal(faster.probabilities, trained.probabilities[shown])


def test_a_timm_model_travels_in_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "vit.pt"
    torch.save(create_encoder("test_vit", 32, pretrained=False).state_dict(), weights)
    small = WindowConfig(window_size=8, stride=4, max_frames=8, image_size=32)
    source = EncoderSource(name="test_vit", weights=str(weights), windows=small)
    model = save_temporal_checkpoint(tmp_path / "model.ckpt", source, ("a", "b"), 128)
    weights.unlink()
    found = predict_one(model, write_noise(tmp_path / "v.mkv", 1), tmp_path, frame_rate=1.0)
    assert found.probabilities.shape == (8, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(UserError, match="a timm model without classifier"):
        load_frame_model(model)


def test_the_frame_model_under_a_temporal_model_stays_as_it_was(source, tmp_path):
    model = head_over(source, tmp_path)
    before, after = load_model(source.name), load_frame_model(model)
    for name, value in before.network.state_dict().items():
        assert torch.equal(after.network.state_dict()[name], value), name
    # commands on frame models do not pass it off as the whole
    with pytest.raises(UserError, match=r"holds a temporal model.*encoder\.ckpt"):
        load_model(model)


def test_the_labels_of_the_frame_model_come_with_those_of_the_temporal_model(source, tmp_path):
    num_inputs = load_model(source.name).network.classifier[0].in_features
    video = write_noise(tmp_path / "v.mkv", 1)
    path = tmp_path / "same.ckpt"
    same = save_temporal_checkpoint(path, source, PHASES, num_inputs, frame_rate=2.0)
    alone = predict_one(source.name, video, tmp_path)
    assert predict_one(same, video, tmp_path).frame_labels.tolist() == alone.labels.tolist()
    # an encoder of other phases does not tell these
    others = head_over(source, tmp_path, frame_rate=2.0)
    assert predict_one(others, video, tmp_path).frame_labels is None
    # earlier versions did not name the phases of the encoder
    content = torch.load(same, weights_only=True)
    del content[PAYLOAD_KEY]["head"]["encoder_phases"]
    torch.save(content, tmp_path / "old.ckpt")
    assert predict_one(tmp_path / "old.ckpt", video, tmp_path).frame_labels is None


def test_versions_without_temporal_models_are_told_to_be_renewed(source, tmp_path):
    payload = read_payload(head_over(source, tmp_path))
    # those know formats 1 and 2, and refuse later ones in one line
    assert payload.to_dict()["format_version"] == 3
    assert read_payload(source.name).to_dict()["format_version"] <= 2


def test_evaluate_scores_it_like_any_other(source, dataset, tmp_path):
    path, network = tmp_path / "model.ckpt", load_model(source.name).network
    num_inputs = network.classifier[0].in_features
    model = save_temporal_checkpoint(path, source, PHASES, num_inputs, frame_rate=2.0)

    request = EvaluationRequest(
        checkpoint=str(model),
        source="segments.csv",
        split="all",
        frame_rate=2.0,
        causal=False,
        smooth=None,
        predictions=None,
        keep_choice=False,
    )
    folder = PredictionFolder(tmp_path / "evaluation")
    found = evaluate(folder, request, read_annotations(dataset), predict_here)
    assert found.card.num_units == 4 * 18
    page = folder.report.read_text()
    assert "frame model" in page
    assert "temporal model" in page
