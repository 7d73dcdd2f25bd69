"""From a checkpoint or a timm model to features of whole videos, without Ray."""

import numpy as np
import pytest
import torch

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder import load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.encoding_job import EncodingJob
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.payload import PAYLOAD_KEY
from tests.helpers.predictions import predict_one
from tests.helpers.videos import write_damaged_video, write_video

pytestmark = pytest.mark.unit

SMALL = WindowConfig(window_size=8, stride=4, max_frames=8, image_size=32)


def encode(source, video, folder, frame_rate=2.0, causal=False):
    """Read back the features that a worker writes."""
    store = FeatureStore(str(folder), load_encoder(source).encoding(frame_rate, causal))
    content_id = store.identify([str(video)])[str(video)]
    EncodingJob(source, store).build_worker("cpu", 1)(content_id, str(video))
    return store.read(content_id)


def save_backbone(path, name="test_vit", seed=0):
    torch.manual_seed(seed)
    torch.save(create_encoder(name, 32, pretrained=False).state_dict(), path)
    return EncoderSource(name=name, weights=str(path), windows=SMALL)


@pytest.fixture
def noise(tmp_path):
    return write_damaged_video(tmp_path / "noise.mp4")


@pytest.mark.parametrize("causal", [False, True])
def test_the_classifier_says_of_features_what_predict_says_of_the_video(
    checkpoint, motion_checkpoint, noise, tmp_path, causal
):
    checkpoint = motion_checkpoint if causal else checkpoint
    found = encode(EncoderSource(name=str(checkpoint)), noise, tmp_path, causal=causal)
    model = load_model(checkpoint)
    predicted = predict_one(checkpoint, noise, tmp_path, causal=causal)
    np.testing.assert_array_equal(found.times_s, predicted.times_s)
    # NaN where frames are damaged, in both
    np.testing.assert_allclose(np.exp(found.log_probs), predicted.probabilities, atol=2e-3)
    with torch.inference_mode():
        logits = model.network.classifier(torch.from_numpy(found.features).float())
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), predicted.probabilities, atol=5e-3)
    assert 1 <= found.is_damaged.sum() <= 8


def test_prediction_and_features_take_the_picture_from_the_checkpoint(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content[PAYLOAD_KEY]["preprocessing"]["window_image"] = "center"
    torch.save(content, tmp_path / "sharp.ckpt")
    frames = np.random.default_rng(0).integers(0, 255, (100, 32, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", frames, frame_rate=10)
    model = load_model(tmp_path / "sharp.ckpt")
    predicted = predict_one(tmp_path / "sharp.ckpt", video, tmp_path, 1.0).probabilities[1:]
    shown = decode_frames(str(video), read_video_index(str(video)), np.arange(10, 91, 10))
    expected = model.predict(np.stack([frame.pixels for frame in shown]))
    # the last window is moved into the video
    np.testing.assert_allclose(predicted[:-1], expected[:-1], atol=1e-6)
    source = EncoderSource(name=str(tmp_path / "sharp.ckpt"))
    found = np.exp(encode(source, video, tmp_path, frame_rate=1.0).log_probs[1:].astype("f4"))
    np.testing.assert_allclose(found, predicted, atol=1e-3)


def test_a_timm_model_gives_features_and_no_classes(noise, tmp_path):
    source = save_backbone(tmp_path / "vit.pt")
    found = encode(source, noise, tmp_path)
    assert found.log_probs.shape == (20, 0)
    # the class token, and the mean of the patches
    assert found.features.shape == (20, 128)
    assert not found.is_damaged.all()


def test_an_encoder_is_known_by_its_weights_and_its_input(checkpoint, tmp_path):
    first = save_backbone(tmp_path / "a.pt", seed=0)
    same = save_backbone(tmp_path / "b.pt", seed=0)
    other = save_backbone(tmp_path / "c.pt", seed=1)
    keys = [load_encoder(s).encoding(1.0, causal=False).key for s in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]
    copy = tmp_path / "copy.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"note": "another file of the same weights"}, copy)
    keys = [
        load_encoder(EncoderSource(name=str(path))).encoding(1.0, causal=False).key
        for path in (checkpoint, copy)
    ]
    assert keys[0] == keys[1]


def test_features_are_never_written_under_another_encoder(noise, tmp_path):
    source = save_backbone(tmp_path / "vit.pt", seed=0)
    store = FeatureStore(str(tmp_path), load_encoder(source).encoding(1.0, causal=False))
    save_backbone(tmp_path / "vit.pt", seed=1)
    with pytest.raises(UserError, match="another one"):
        EncodingJob(source, store).build_worker("cpu", 1)


def test_a_video_that_changes_while_it_is_encoded_gives_no_features(noise, tmp_path):
    source = save_backbone(tmp_path / "vit.pt")
    store = FeatureStore(str(tmp_path), load_encoder(source).encoding(1.0, causal=False))
    encode_one = EncodingJob(source, store).build_worker("cpu", 1)
    with pytest.raises(VideoError, match="changed"):
        encode_one("the content at the start", str(noise))
    assert store.find(["the content at the start"]) == set()


def test_weights_that_give_no_numbers_are_refused(noise, tmp_path):
    source = save_backbone(tmp_path / "vit.pt")
    state = torch.load(source.weights, weights_only=True)
    state["norm.weight"][0] = torch.nan
    torch.save(state, source.weights)
    with pytest.raises(UserError, match="no numbers"):
        encode(source, noise, tmp_path)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("no_such_model", None, "--encoder no_such_model: timm has no such model"),
        ("test_vit", "missing.pt", "--encoder_weights missing.pt does not exist"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_named_by_its_flag(name, weights, message):
    with pytest.raises(UserError, match=message):
        load_encoder(EncoderSource(name=name, weights=weights, windows=SMALL))


def test_a_checkpoint_takes_no_other_weights():
    with pytest.raises(UserError, match="--encoder_weights"):
        EncoderSource(name="a.ckpt", weights="b.pt").located()


def test_a_timm_model_takes_no_motion():
    windows = WindowConfig(window_image="mean+motion")
    with pytest.raises(UserError, match=r"mean\+motion: the timm model test_vit sees"):
        EncoderSource(name="test_vit", windows=windows).located()
    assert EncoderSource(name="a.ckpt", windows=windows).located().is_checkpoint
