"""A checkpoint with a temporal model as two ONNX files that give its predictions without torch."""

import json

import numpy as np
import pytest

from ophnet_ray.cli.export import ExportCommand
from ophnet_ray.inference.encoder import load_encoder_of
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.temporal_checkpoint import load_head
from ophnet_ray.models.temporal_fit import predict_sequence
from tests.helpers.heads import save_temporal_checkpoint

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("kind", "channels"), [("mstcn", 3), ("gru", 4)])
def test_two_files_and_one_card_give_the_predictions_of_the_checkpoint(
    checkpoint, motion_checkpoint, tmp_path, kind, channels, capsys
):
    checkpoint = motion_checkpoint if channels == 4 else checkpoint
    runtime = pytest.importorskip("onnxruntime")
    num_inputs = load_model(checkpoint).network.classifier[0].in_features
    source = EncoderSource(name=str(checkpoint))
    path = tmp_path / "model.ckpt"
    save_temporal_checkpoint(path, source, ("a", "b", "c"), num_inputs, temporal=kind)
    ExportCommand(checkpoint=str(path), export_onnx=str(tmp_path / "model.onnx")).run()
    assert "model.head.onnx" in capsys.readouterr().out

    encoder = runtime.InferenceSession(tmp_path / "model.onnx")
    head = runtime.InferenceSession(tmp_path / "model.head.onnx")
    images = np.random.default_rng(1).integers(0, 256, (9, 32, 32, channels), dtype=np.uint8)
    features, log_probs = encoder.run(None, {"pixels": images.transpose(0, 3, 1, 2)})
    ours, ours_log = load_encoder_of(str(path)).encode(images)
    np.testing.assert_allclose(features, ours.float().numpy(), atol=5e-3)
    np.testing.assert_allclose(log_probs, ours_log.float().numpy(), atol=5e-3)
    (found,) = head.run(None, {"values": features[None]})
    np.testing.assert_allclose(found[0], predict_sequence(load_head(path), features), atol=1e-4)
    cards = [json.loads(s.get_modelmeta().custom_metadata_map["card"]) for s in (encoder, head)]
    assert cards[0] == cards[1]
    assert cards[0]["temporal"]["kind"] == kind
