"""Temporal models over whole videos: causality, reach, loss, and what time alone can tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config, TrainingConfig
from ophnet_ray.data.sequence_module import SequenceDataModule
from ophnet_ray.data.sequences import HeldValues, LabelledSequence
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.models.lightning_trainer import build_lightning_trainer
from ophnet_ray.models.temporal_fit import build_head_module, fit_head, predict_sequence
from ophnet_ray.models.temporal_loss import SequenceLoss, smoothness_loss
from ophnet_ray.models.temporal_module import TemporalModule
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.models.temporal_spec import TemporalSpec
from ophnet_ray.temporal_config import TemporalConfig

pytestmark = pytest.mark.unit

NUM_CLASSES, NUM_INPUTS = 4, 6
MODELS = [("mstcn", True), ("mstcn", False), ("gru", True), ("gru", False)]


def build(kind, causal, layers=3):
    torch.manual_seed(0)
    config = TemporalConfig(
        temporal=kind, causal=causal, temporal_layers=layers, temporal_channels=8
    )
    spec = TemporalSpec.of_config(config, NUM_INPUTS, NUM_CLASSES)
    return TemporalModel(spec).eval()


@pytest.mark.parametrize("kind", ["mstcn", "gru"])
@pytest.mark.parametrize("at", [0, 1, 17, 39])
def test_a_causal_model_is_unmoved_by_the_future(kind, at):
    model = build(kind, causal=True)
    values = torch.randn(1, 40, NUM_INPUTS)
    changed = values.clone()
    changed[:, at + 1 :] = 100 * torch.randn(1, 40 - at - 1, NUM_INPUTS)
    with torch.inference_mode():
        before, after = model(values), model(changed)
    torch.testing.assert_close(before[:, :, : at + 1], after[:, :, : at + 1])


@pytest.mark.parametrize("kind", ["mstcn", "gru"])
def test_an_offline_model_uses_the_future(kind):
    model = build(kind, causal=False)
    values = torch.randn(1, 40, NUM_INPUTS)
    changed = values.clone()
    changed[:, 20:] += 1
    with torch.inference_mode():
        assert not torch.equal(model(values)[:, :, 19], model(changed)[:, :, 19])


@pytest.mark.parametrize("causal", [False, True])
def test_the_receptive_field_is_as_far_as_a_frame_reaches(causal):
    model = build("mstcn", causal)
    values = torch.zeros(1, 101, NUM_INPUTS, requires_grad=True)
    model(values)[-1, 0, 50].sum().backward()
    used = values.grad[0].abs().sum(dim=1).nonzero().ravel().numpy()
    before_s, after_s = model.spec.context_s  # one frame per second
    assert (50 - used.min(), used.max() - 50) == (before_s, after_s)
    assert model.spec.describe_context() == (
        "28 s before, nothing after" if causal else "14 s before and 14 s after"
    )


@pytest.mark.parametrize(("kind", "causal"), MODELS)
def test_damaged_frames_count_as_the_mean(kind, causal):
    model = build(kind, causal)
    model.mean.copy_(torch.arange(NUM_INPUTS))
    values = torch.randn(1, 30, NUM_INPUTS)
    damaged, mean = values.clone(), values.clone()
    damaged[0, 7], mean[0, 7] = torch.nan, torch.arange(NUM_INPUTS).float()
    with torch.inference_mode():
        assert torch.equal(model(damaged), model(mean))


def test_unannotated_frames_have_no_part_in_the_loss():
    loss = SequenceLoss(NUM_CLASSES, None, smoothing=0.0)
    logits = torch.randn(2, 1, 10, NUM_CLASSES)
    labels = torch.tensor([[0, 1, 2, 3, 0, -1, -1, -1, -1, -1]])
    torch.testing.assert_close(loss(logits, labels), loss(logits[:, :, :5], labels[:, :5]))
    assert loss(logits, torch.full_like(labels, -1)) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_unannotated_frames_get_no_gradient(smoothing):
    loss = SequenceLoss(NUM_CLASSES, None, smoothing)
    logits = torch.randn(2, 1, 10, NUM_CLASSES, requires_grad=True)
    labels = torch.tensor([[-1, -1, 0, 1, 2, -1, -1, 3, 3, -1]])
    loss(logits, labels).backward()
    has_gradient = logits.grad.abs().sum(dim=(0, 3))[0] > 0
    assert has_gradient.tolist() == (labels[0] >= 0).tolist()
    assert loss(logits, torch.full_like(labels, -1)) == 0


def test_a_jump_from_a_frame_without_annotation_does_not_count():
    logits = torch.randn(1, 6, NUM_CLASSES)
    is_annotated = torch.tensor([[True, True, False, True, True, True]])
    jumps = [smoothness_loss(logits[:, i : i + 2], torch.ones(1, 2).bool()) for i in (0, 3, 4)]
    torch.testing.assert_close(smoothness_loss(logits, is_annotated), torch.stack(jumps).mean())


def test_the_smoothness_is_truncated_and_moves_the_later_frame_only():
    logits = torch.tensor([[[0.0, 0.0], [30.0, -30.0]]], requires_grad=True)
    loss = smoothness_loss(logits, torch.ones(1, 2).bool())
    # one jump of log 2, one of about 60 that counts 4
    torch.testing.assert_close(loss, torch.tensor((np.log(2) ** 2 + 16) / 2).float())
    loss.backward()
    assert logits.grad[0, 0].abs().sum() == 0


def make_videos(num_videos, seed):
    """Make videos whose second and fourth phase look alike: only what went before tells them."""
    videos = []
    rng = np.random.default_rng(seed)
    for i in range(num_videos):
        lengths = rng.integers(8, 15, 5)
        labels = np.repeat([0, 1, 2, 3, -1], lengths)
        looks = np.repeat([0, 1, 2, 1, 0], lengths)
        values = np.eye(NUM_INPUTS)[looks] + 0.1 * rng.standard_normal((len(looks), NUM_INPUTS))
        held = HeldValues(values.astype(np.float32))
        videos.append(LabelledSequence(f"{seed}-{i}", f"case {i}", labels, held))
    return videos


def share_right(model, videos):
    right = [
        predict_sequence(model, video.read_values()).argmax(axis=1)[video.labels >= 0]
        == video.labels[video.labels >= 0]
        for video in videos
    ]
    return np.concatenate(right).mean()


@pytest.mark.parametrize(("kind", "causal"), MODELS)
def test_phases_that_look_alike_are_told_apart_by_their_place_in_time(kind, causal):
    config = TemporalConfig(
        temporal=kind,
        causal=causal,
        temporal_layers=5 if kind == "mstcn" else 1,
        temporal_channels=16,
        temporal_epochs=6,
        temporal_lr=1e-2,
        temporal_dropout=0.1,
    )
    train, val, test = make_videos(12, 1), make_videos(2, 2), make_videos(6, 3)
    model = fit_head(train, val, NUM_CLASSES, config)
    # frames alone cannot do better than about 3 of 4
    assert share_right(model, test) > 0.9


def test_the_module_takes_normalisation_and_class_weights_from_the_training_frames():
    videos = make_videos(3, 1)
    config = TemporalConfig(temporal="gru", temporal_channels=8)
    inverse = TrainingConfig(class_weights="inverse")
    module = build_head_module(videos, [], NUM_CLASSES, config, inverse)
    values = np.concatenate([video.read_values() for video in videos])
    torch.testing.assert_close(module.head.mean, torch.from_numpy(values.mean(axis=0)))
    torch.testing.assert_close(module.head.std, torch.from_numpy(values.std(axis=0)))
    labels = np.concatenate([video.labels for video in videos])
    counts = np.bincount(labels[labels >= 0], minlength=NUM_CLASSES)
    weights = module.loss.phase_loss.weights * counts
    torch.testing.assert_close(weights, weights.mean().expand(NUM_CLASSES))


def test_the_model_of_the_best_epoch_is_returned():
    train = make_videos(3, 1)
    # what is learnt of the training videos is wrong here: the first epoch is the best
    val = [replace(video, labels=(video.labels + 1) % NUM_CLASSES) for video in make_videos(2, 2)]
    config = TemporalConfig(
        temporal="gru", temporal_epochs=1, temporal_channels=8, temporal_lr=1e-2
    )
    first, best = (
        fit_head(train, val, NUM_CLASSES, replace(config, temporal_epochs=epochs))
        for epochs in (1, 3)
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(best.state_dict()[name], tensor), name


class AsShown(torch.nn.Module):
    """Model that takes the input of a frame for its logits."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, values):
        return self.scale * values[None]


def test_validation_scores_the_segments_of_each_video(tmp_path):
    truth = np.repeat([0, 1, 2, 3], 5)
    looks = [truth, np.zeros_like(truth)]
    videos = [
        LabelledSequence(f"{i}", f"{i}", truth, HeldValues(np.eye(NUM_CLASSES, dtype="f4")[look]))
        for i, look in enumerate(looks)
    ]
    config = TemporalConfig(temporal="mstcn")
    spec = TemporalSpec.of_config(config, NUM_CLASSES, NUM_CLASSES)
    module = TemporalModule(AsShown(spec), num_val_cases=2)
    trainer = build_lightning_trainer(TrainingConfig(), False, [], tmp_path)
    trainer.validate(module, SequenceDataModule(videos, videos, seed=0), verbose=False)
    metrics = module.epoch_metrics
    assert metrics["val_acc"] == pytest.approx((20 + 5) / 40)
    # four stretches right; one of four
    assert metrics["val_edit"] == pytest.approx((1 + 1 / 4) / 2)
    # the stretch of the second video overlaps its true one by a quarter
    assert metrics["val_f1_50"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 4))


def test_the_same_seed_gives_the_same_weights():
    config = TemporalConfig(temporal="gru", temporal_epochs=1, temporal_channels=8)
    first, again = (fit_head(make_videos(3, 1), [], NUM_CLASSES, config) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def unannotated(video):
    return replace(video, labels=np.full_like(video.labels, -1))


@pytest.mark.parametrize("smoothing_loss", [0.0, 0.15])
def test_a_video_without_labels_is_trained_on_beside_others(smoothing_loss):
    config = TemporalConfig(
        temporal="gru", temporal_epochs=1, temporal_channels=8, smoothing_loss=smoothing_loss
    )
    videos = make_videos(3, 1)
    fit_head([unannotated(videos[0]), *videos[1:]], videos[1:], NUM_CLASSES, config)


def test_validation_videos_without_labels_choose_no_epoch():
    config = TemporalConfig(temporal="gru", temporal_epochs=2, temporal_channels=8)
    train, val = make_videos(3, 1), [unannotated(video) for video in make_videos(2, 2)]
    last, found = (fit_head(train, videos, NUM_CLASSES, config) for videos in ([], val))
    for name, tensor in last.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_a_model_whose_weights_are_not_finite_is_not_returned():
    config = TemporalConfig(temporal="mstcn", temporal_epochs=1, temporal_lr=1e30)
    with pytest.raises(TrainingError, match="not finite: lower --temporal_lr 1e"):
        fit_head(make_videos(3, 1), [], NUM_CLASSES, config)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"temporal_layers": 0}, "--temporal_layers 0: must be 1 to 16"),
        ({"frame_rate": 1001.0}, "--frame_rate 1001: must be more than 0, at most 1000"),
    ],
)
def test_impossible_settings_are_refused(flags, says):
    with pytest.raises(UserError, match=says):
        Config().replace_flat(temporal="mstcn", **flags).validate()
