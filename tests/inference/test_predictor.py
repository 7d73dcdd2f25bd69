"""Predictions of one or several models, under one or several views: parts, passes, refusals."""

import numpy as np
import pytest
import torch

from ophnet_ray.cli.given_models import check_models, gather_model
from ophnet_ray.errors import UserError
from ophnet_ray.inference import predictor
from ophnet_ray.inference.averaging import average_predictions
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.ensemble import build_ensemble, read_ensemble, write_ensemble
from ophnet_ray.inference.ensemble_payload import read_model_payload
from ophnet_ray.inference.prediction_folder import (
    PredictionFolder,
    PredictionRequest,
    predict_into,
)
from ophnet_ray.inference.prediction_job import build_job
from ophnet_ray.inference.predictions import VideoPrediction, read_info, read_predictions
from ophnet_ray.inference.tta import check_flips, parse_tta
from ophnet_ray.models.payload import PAYLOAD_KEY
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.heads import save_temporal_checkpoint
from tests.helpers.predictions import predict_here, predict_one
from tests.helpers.videos import COLORS, write_video

pytestmark = pytest.mark.unit

PHASES = sorted(COLORS)


@pytest.fixture
def passes(monkeypatch):
    """The videos that are decoded, each time."""
    videos = []
    stream = predictor.stream_batches

    def watched(video, windows):
        videos.append(video)
        return stream(video, windows)

    monkeypatch.setattr(predictor, "stream_batches", watched)
    return videos


@pytest.fixture
def video(tmp_path):
    """Eight seconds of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
    return write_video(tmp_path / "v.mkv", noise, frame_rate=10, codec="ffv1", gop=1)


def request_of(folder, checkpoint, video, **changes):
    values = {"frame_rate": 2.0, "causal": False, "smooth": None} | changes
    request = PredictionRequest(checkpoint=str(checkpoint), videos={"v": str(video)}, **values)
    return predict_into(PredictionFolder(folder), request, predict_here)


def head_over(checkpoint, path, **settings):
    """Write a checkpoint with a temporal model over this frame model."""
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    source, width = EncoderSource(name=str(checkpoint)), weights["model.classifier.0.weight"].shape
    return save_temporal_checkpoint(path, source, PHASES, width[1], **settings)


def test_models_of_equal_windows_share_one_pass_and_a_new_member_predicts_alone(
    checkpoint, other_checkpoint, motion_checkpoint, video, tmp_path, passes
):
    folder = PredictionFolder(tmp_path / "out")
    both = gather_model([str(checkpoint), str(other_checkpoint)], folder, print).file
    request_of(folder.path, both, video)
    assert passes == [str(video)]
    ((mean, labels),) = read_predictions(folder.predictions)
    alone = [predict_one(each, video, tmp_path) for each in (checkpoint, other_checkpoint)]
    expected = np.mean([each.probabilities for each in alone], axis=0)
    np.testing.assert_allclose(mean.probabilities, expected, atol=1e-6)
    assert labels.tolist() == mean.probabilities.argmax(axis=1).tolist()
    info = read_info(folder.predictions)
    assert [share for _, share in info.members] == [0.5, 0.5]
    assert info.checkpoint_sha256 == read_ensemble(both).sha256
    assert "mean of 2 models" in folder.report.read_text()
    done = {part: part.stat().st_mtime_ns for part in folder.parts.iterdir()}
    assert len(done) == 3, "the members, and their mean"
    del passes[:]
    models = (checkpoint, other_checkpoint, motion_checkpoint)
    more = gather_model(list(map(str, models)), folder, print).file
    request_of(folder.path, more, video)
    assert len(passes) == 1
    assert {part: part.stat().st_mtime_ns for part in done} == done
    assert len(list(folder.parts.iterdir())) == 5
    del passes[:]
    write_ensemble(tmp_path / "e.yaml", build_ensemble([checkpoint, motion_checkpoint], [3, 1]))
    request_of(folder.path, tmp_path / "e.yaml", video)
    request_of(folder.path, checkpoint, video)
    assert passes == [], "of other weights, and of a member alone, all is there"


def test_a_mean_is_over_the_models_that_have_a_prediction():
    rows = [[[0.9, 0.1], [np.nan] * 2, [np.nan] * 2], [[0.5, 0.5], [0.2, 0.8], [np.nan] * 2]]
    both = [VideoPrediction("v", np.arange(3.0), np.asarray(each, np.float32)) for each in rows]
    mean = average_predictions(both, [0.75, 0.25])
    np.testing.assert_allclose(mean.probabilities, [[0.8, 0.2], [0.2, 0.8], [np.nan] * 2])
    assert mean.labels.tolist() == [0, 1, -1]
    longer = VideoPrediction("v", np.arange(4.0), np.ones((4, 2), np.float32))
    with pytest.raises(UserError, match="of files of different length"):
        average_predictions([both[0], longer], [0.5, 0.5])


def test_a_temporal_model_and_its_frame_model_are_averaged(checkpoint, video, tmp_path, passes):
    """Both see the same windows at one rate: one pass."""
    head = head_over(checkpoint, tmp_path / "head.ckpt", frame_rate=2.0)
    write_ensemble(tmp_path / "e.yaml", build_ensemble([checkpoint, head]))
    mean = predict_one(tmp_path / "e.yaml", video, tmp_path)
    assert len(passes) == 1
    alone = [predict_one(each, video, tmp_path) for each in (checkpoint, head)]
    assert len(passes) == 1, "the members' own parts are there"
    expected = np.mean([each.probabilities for each in alone], axis=0)
    np.testing.assert_allclose(mean.probabilities, expected, atol=1e-6)
    assert alone[1].frame_labels is not None
    assert mean.frame_labels is None
    causal = head_over(checkpoint, tmp_path / "causal.ckpt", frame_rate=2.0, causal=True)
    write_ensemble(tmp_path / "e.yaml", build_ensemble([checkpoint, causal]))
    with pytest.raises(UserError, match=r"some of the models use the past alone.*--causal"):
        build_job(str(tmp_path / "e.yaml"), tmp_path, 2.0, causal=False)
    assert build_job(str(tmp_path / "e.yaml"), tmp_path, 2.0, causal=True).info.causal
    faster = head_over(checkpoint, tmp_path / "faster.ckpt", frame_rate=4.0)
    with pytest.raises(UserError, match="other numbers of frames per second"):
        build_ensemble([head, faster])


def test_views_come_from_one_pass_and_are_averaged(checkpoint, video, tmp_path, passes):
    plain = predict_one(checkpoint, video, tmp_path)
    both = predict_one(checkpoint, video, tmp_path, tta=("flips", "windows"))
    assert len(passes) == 2
    assert not np.allclose(both.probabilities, plain.probabilities)
    np.testing.assert_allclose(both.probabilities.sum(axis=1), 1, atol=1e-5)
    # of a mirrored video, the mean over both sides is the same
    frames = np.random.default_rng(0).integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
    mirrored = write_video(
        tmp_path / "m.mkv", frames[:, :, ::-1].copy(), frame_rate=10, codec="ffv1", gop=1
    )
    flipped = [
        predict_one(checkpoint, each, tmp_path, tta=("flips",)) for each in (video, mirrored)
    ]
    np.testing.assert_allclose(flipped[0].probabilities, flipped[1].probabilities, atol=1e-6)
    assert not np.allclose(
        predict_one(checkpoint, mirrored, tmp_path).probabilities, plain.probabilities
    )


@pytest.mark.parametrize("is_temporal", [False, True])
def test_views_of_a_causal_prediction_use_nothing_of_the_future(checkpoint, tmp_path, is_temporal):
    rng = np.random.default_rng(0)
    past, *futures = rng.integers(0, 255, (3, 40, 32, 32, 3), dtype=np.uint8)
    model = checkpoint
    if is_temporal:
        model = head_over(checkpoint, tmp_path / "causal.ckpt", frame_rate=2.0, causal=True)
    one, other = (
        predict_one(
            model,
            write_video(
                tmp_path / f"{i}.mkv", [*past, *future], frame_rate=10, codec="ffv1", gop=1
            ),
            tmp_path,
            causal=True,
            tta=("flips", "windows"),
        ).probabilities
        for i, future in enumerate(futures)
    )
    np.testing.assert_allclose(one[:8], other[:8], atol=1e-6)
    assert not np.allclose(one[8:], other[8:])


def test_the_record_of_a_prediction_states_its_views(checkpoint, video, tmp_path):
    request_of(tmp_path / "plain", checkpoint, video)
    request_of(tmp_path / "views", checkpoint, video, tta=("windows",))
    plain, views = (PredictionFolder(tmp_path / name) for name in ("plain", "views"))
    assert read_info(views.predictions).tta == ("windows",)
    assert read_info(plain.predictions).tta == ()
    assert "test-time augmentation: windows" in views.report.read_text()
    assert "test-time" not in plain.report.read_text()


def test_mirrored_images_are_refused_where_phases_name_a_side(checkpoint, tmp_path):
    assert parse_tta("windows, flips") == ("flips", "windows")
    assert parse_tta("") == ()
    with pytest.raises(UserError, match="--tta rotations: 'rotations' is none of flips, windows"):
        parse_tta("rotations")
    assert "--hflip 0" in check_flips(("flips",), str(checkpoint))
    assert not check_flips(("windows",), str(checkpoint))
    save_checkpoint(tmp_path / "sides.ckpt", make_payload(2, phases=("left_incision", "rights")))
    with pytest.raises(UserError, match="'left_incision' names a side"):
        check_flips(("flips",), str(tmp_path / "sides.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    content[PAYLOAD_KEY]["config"]["hflip"] = 0.5
    torch.save(content, tmp_path / "mirrored.ckpt")
    assert not check_flips(("flips",), str(tmp_path / "mirrored.ckpt"))


def test_an_ensemble_has_seen_what_a_member_has_seen(split_checkpoint, tmp_path):
    for name, train, val in (("a", ["c1", "c2"], ["c3", "c4"]), ("b", ["c1", "c4"], ["c2", "c3"])):
        split_checkpoint(train, val, lr=len(train) if name == "a" else 7).rename(tmp_path / name)
    write_ensemble(tmp_path / "e.yaml", build_ensemble([tmp_path / "a", tmp_path / "b"]))
    own = [read_model_payload(str(tmp_path / name)).training for name in "ab"]
    both = read_model_payload(str(tmp_path / "e.yaml"))
    assert set(both.training.case_hashes) == {*own[0].case_hashes, *own[1].case_hashes}
    (held_out,) = both.training.val_case_hashes
    assert all(held_out in each.val_case_hashes for each in own)
    assert "lr" not in both.config
    assert both.config["backbone"] == "test_resnet"
    assert both.training.dynamics is not None


def test_models_are_given_as_files_runs_and_ensembles(checkpoint, other_checkpoint, tmp_path):
    folder = PredictionFolder(tmp_path / "out")
    inner = tmp_path / "folds"
    inner.mkdir()
    write_ensemble(inner / "ensemble.yaml", build_ensemble([checkpoint, other_checkpoint]))
    assert gather_model([str(inner)], folder, print).file == str(inner / "ensemble.yaml")
    assert gather_model([str(checkpoint)], folder, print).file == str(checkpoint)
    with pytest.raises(UserError, match="are the same model; leave one out"):
        gather_model([str(inner), str(checkpoint)], folder, print)
    for given, says in (
        ([], "give a checkpoint"),
        (["none.ckpt"], r"checkpoint none\.ckpt does not exist"),
        ([str(checkpoint)] * 2, "is given twice"),
    ):
        with pytest.raises(UserError, match=says):
            check_models(given)
    with pytest.raises(UserError, match=r"is no checkpoint, no run directory, and holds no ens"):
        gather_model([str(tmp_path)], folder, print)


def test_another_command_with_the_same_output_does_not_change_the_models(
    checkpoint, other_checkpoint, motion_checkpoint, video, tmp_path, passes
):
    folder = PredictionFolder(tmp_path / "out")
    own = gather_model([str(checkpoint), str(other_checkpoint)], folder, print)
    gather_model([str(checkpoint), str(motion_checkpoint)], folder, print)
    with pytest.raises(UserError, match=r"another command has put other models into .*ensemble.ya"):
        request_of(folder.path, own.file, video, gathered_sha256=own.sha256)
    assert passes == []
