"""Audits of temporal models: what hangs on the order of time, and what on the future."""

import json

import numpy as np
import pytest
import torch

from ophnet_ray.cli.audit import AuditCommand
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.errors import UserError
from ophnet_ray.inference.audit_result import AuditSettings
from ophnet_ray.inference.encoder import load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.encoding_job import EncodingJob, plan_encoding
from ophnet_ray.inference.temporal_audit import (
    AuditedSequence,
    audit_order,
    audit_rivals,
    audit_temporal_model,
    predict_from_past,
    thin_out,
)
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.temporal_fit import predict_sequence
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.models.temporal_spec import TemporalSpec
from ophnet_ray.temporal_config import TemporalConfig
from tests.helpers.heads import save_temporal_checkpoint
from tests.helpers.videos import COLORS, write_color_dataset

pytestmark = pytest.mark.unit

PHASES = tuple(sorted(COLORS))

NUM_INPUTS, NUM_CLASSES, NUM_FRAMES = 6, 4, 60


def build(kind="mstcn", causal=False):
    torch.manual_seed(0)
    config = TemporalConfig(
        temporal=kind, causal=causal, temporal_layers=3, temporal_stages=1, temporal_channels=8
    )
    model = TemporalModel(TemporalSpec.of_config(config, NUM_INPUTS, NUM_CLASSES)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)  # predictions then depend on the input, not on the biases
    return model


def noise(seed):
    return np.random.default_rng(seed).standard_normal((NUM_FRAMES, NUM_INPUTS)).astype(np.float16)


def sequence_of(values, labels, num_classes=0):
    log_probs = np.zeros((len(values), num_classes), dtype=np.float16)
    features = FeatureSequence("v", np.arange(len(values), dtype=float), values, log_probs)
    return AuditedSequence(labels, lambda: features)


def judged_right(model):
    """Return sequences whose labels are what the model predicts of them."""
    found = []
    for seed in range(3):
        values = noise(seed)
        labels = predict_sequence(model, values.astype(np.float32)).argmax(axis=1)
        found.append(sequence_of(values, labels))
    return found


def accuracies(model):
    scores = audit_order(model, judged_right(model), seed=0, has_frame_model=False)
    return {score.name: score.accuracy for score in scores}


@pytest.mark.parametrize("kind", ["mstcn", "gru"])
def test_a_causal_model_loses_nothing_without_the_future_and_an_offline_one_does(kind):
    causal, offline = (accuracies(build(kind, causal)) for causal in (True, False))
    assert causal["as it is"] == causal["past only"] == 1
    assert offline["as it is"] == 1 > offline["past only"]
    assert causal["time shuffled"] < 1
    assert offline["time shuffled"] < 1


def test_a_model_that_looks_at_single_frames_loses_nothing_in_random_order():
    model = build()
    with torch.no_grad():
        for stage in model.body.stages:
            for layer in stage.layers:
                layer.dilated.weight[:, :, [0, 2]] = 0  # the frames before and after
    assert set(accuracies(model).values()) == {1.0}


@pytest.mark.parametrize("kind", ["mstcn", "gru"])
def test_a_prediction_from_the_past_is_that_of_a_video_that_ends_there(kind):
    model, values = build(kind), noise(1).astype(np.float32)
    frames = np.array([0, 5, 40, NUM_FRAMES - 1])
    ended = [predict_sequence(model, values[: frame + 1])[-1].argmax() for frame in frames]
    assert predict_from_past(model, values, frames).tolist() == ended


def test_frames_are_thinned_out_evenly_over_all_videos():
    labels = np.repeat([0, -1, 1], 20)
    sequences = [sequence_of(noise(seed), labels) for seed in range(2)]
    thinned = thin_out(sequences, 16)
    assert [sequence.scored.tolist() for sequence in thinned] == [
        [0, 5, 10, 15, 40, 45, 50, 55],
        [0, 5, 10, 15, 40, 45, 50, 55],
    ]


def test_the_clock_alone_tells_phases_that_always_begin_at_the_same_time():
    training = [np.repeat([0, -1, 1, 2], 5), np.repeat([0, 0, 1], 5)]
    for labels in training:
        labels[:2] = -1  # the start of no video is annotated
    video = sequence_of(noise(0), np.repeat([0, 0, 1, 2, 2], [5, 5, 5, 5, 40]))
    majority, elapsed = audit_rivals(training, [video], num_classes=3)
    assert majority.accuracy == pytest.approx(10 / 60)
    assert elapsed.accuracy == 1  # after the end of training videos, their last phase


def write_model(checkpoint, tmp_path, num_inputs, phases=PHASES, **settings):
    """Write a temporal model over the frame model, and rows: v0 trains, v1 and v2 validate."""
    head, *rows = (tmp_path / "videos/segments.csv").read_text().splitlines()
    splits = {"v0": "train", "v1": "val", "v2": "val"}
    table = tmp_path / "videos/split.csv"
    lines = [f"{head},split", *(f"{row},{splits[row[:2]]}" for row in rows)]
    table.write_text("\n".join(lines))
    model = save_temporal_checkpoint(
        tmp_path / "model.ckpt",
        EncoderSource(name=str(checkpoint)),
        phases,
        num_inputs,
        frame_rate=2.0,
        **settings,
    )
    return model, table


def encode_here(source, videos, store):
    """Encode in this process what a store lacks, without Ray."""
    plan = plan_encoding(store, videos.values())
    encode = EncodingJob(source, store).build_worker("cpu", 1)
    broken = {}
    for content_id, video in plan.todo.items():
        try:
            encode(content_id, video)
        except VideoError as error:
            broken[video] = str(error)
    return broken


def audit_by_command(model, table, tmp_path):
    AuditCommand(
        checkpoint=str(model),
        csv_path=str(table),
        cache_dir=str(tmp_path / "cache"),
        output=str(tmp_path / "audit"),
    ).run()
    return json.loads((tmp_path / "audit/audit.json").read_text())


def test_the_command_audits_a_temporal_model_on_the_features_of_the_cache(
    checkpoint, tmp_path, capsys
):
    write_color_dataset(tmp_path / "videos", num_cases=3)
    model, table = write_model(checkpoint, tmp_path, 3, temporal_input="log_probs")
    source = EncoderSource(name=str(model))
    store = FeatureStore(str(tmp_path / "cache"), load_encoder(source).encoding(2.0, causal=False))
    names = [str(tmp_path / f"videos/v{number}.mp4") for number in (1, 2)]
    assert not encode_here(source, dict(zip(names, names, strict=True)), store)
    content = audit_by_command(model, table, tmp_path)
    told = capsys.readouterr()
    assert "2 of 2 videos are encoded already" in told.err  # and no Ray starts
    assert "time shuffled" in told.out
    assert [score["name"] for score in content["scores"]] == [
        "as it is",
        "frame model alone",
        "time shuffled",
        "past only",
        "majority phase of training",
        "elapsed time alone",
    ]
    # two videos; three seconds each of three phases, twice per second
    assert content["num_frames"] == 2 * 18
    assert content["scores"][-1]["accuracy"] == 0  # each case has its phases in another order
    assert {"stages.0", "stages.1"} <= content["gradient_norms"].keys()
    page = (tmp_path / "audit/report.html").read_text()
    assert "What does the model make of time?" in page
    assert "36 frames. Accuracy: share of frames that are right" in page


def test_a_video_that_cannot_be_read_is_left_out_with_its_reason(checkpoint, tmp_path):
    write_color_dataset(tmp_path / "videos", num_cases=3)
    (tmp_path / "videos/v1.mp4").write_bytes(b"no video")
    num_inputs = load_model(checkpoint).network.classifier[0].in_features
    model, table = write_model(checkpoint, tmp_path, num_inputs, PHASES[::-1], temporal="gru")
    settings = AuditSettings(
        split="val", cache_dir=str(tmp_path / "cache"), num_workers=1, max_windows=4000, seed=0
    )
    found = audit_temporal_model(str(model), read_annotations(table), settings, encode_here)
    assert found.num_units == 18
    # its classes are not those of the temporal model
    assert "frame model alone" not in {score.name for score in found.scores}
    (warning,) = found.warnings
    assert "v1.mp4 is left out: " in warning


def test_a_missing_video_is_refused_as_in_training(checkpoint, tmp_path):
    write_color_dataset(tmp_path / "videos", num_cases=3)
    model_and_table = write_model(checkpoint, tmp_path, 3, temporal_input="log_probs")
    (tmp_path / "videos/v1.mp4").unlink()
    with pytest.raises(UserError, match=r"1 video is missing, the first: .*v1\.mp4"):
        audit_by_command(*model_and_table, tmp_path)
