"""A network that starts from a checkpoint: what it takes, what starts anew, what is refused."""

import math

import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.init_checkpoint import build_network, find_weights_licence, read_start
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.payload import Preprocessing
from ophnet_ray.models.temporal_checkpoint import write_temporal_checkpoint
from ophnet_ray.models.training_summary import TrainingSummary
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.heads import save_temporal_checkpoint

pytestmark = pytest.mark.unit

SIZE = 64
PHASES = ("0", "1", "2")


def summary(*cases, videos=None):
    return TrainingSummary(
        case_hashes=tuple(map(hash_case, cases)),
        cases_by_phase=(1, 1, 1),
        val_case_hashes=(),
        dynamics=None,
        video_hashes=videos,
    )


def save(path, backbone="test_vit", size=SIZE, phases=PHASES, mask="rg", **changes):
    """Write a checkpoint with random weights; return its network."""
    torch.manual_seed(7)
    network = SurgicalPhaseClassificationModel(len(phases), backbone, False, size, mask=mask)
    config = Config().replace_flat(
        backbone=backbone, pretrained=False, image_size=size, mask=mask, csv_path="/data/t.csv"
    )
    payload = make_payload(
        len(phases),
        phases=phases,
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        pooling=network.pooling,
        **changes,
    )
    save_checkpoint(path, payload, network)
    return network


def settings(path, **changes):
    defaults = {"backbone": "test_vit", "image_size": SIZE, "init_checkpoint": str(path)}
    return Config().replace_flat(**(defaults | changes))


def build(config, phases=PHASES, seed=0):
    torch.manual_seed(seed)
    return build_network(config, phases)


def differing(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_all_weights_are_taken_where_everything_fits(tmp_path):
    source = save(tmp_path / "m.ckpt")
    network = build(settings(tmp_path / "m.ckpt", window_size=32, stride=4))
    assert differing(network, source) == []
    assert network.training
    assert network.freeze_batch_norm


def test_rows_follow_their_phases_and_others_are_those_of_the_seed(tmp_path):
    source = save(tmp_path / "m.ckpt").classifier[-1]
    phases = ("2", "new", "0")
    network = build(settings(tmp_path / "m.ckpt"), phases)
    fresh = build(settings(tmp_path / "m.ckpt", init_checkpoint=None, pretrained=False), phases)
    own, new = network.classifier[-1], fresh.classifier[-1]
    for name in ("weight", "bias"):
        ours, theirs = getattr(own, name), getattr(source, name)
        assert torch.equal(ours[0], theirs[2])
        assert torch.equal(ours[1], getattr(new, name)[1])
        assert torch.equal(ours[2], theirs[0])


def test_several_sources_of_one_phase_give_the_mean_of_their_rows(tmp_path):
    source = save(tmp_path / "m.ckpt").classifier[-1]
    (tmp_path / "map.csv").write_text("source,target\n0,cut\n2,cut\n1,other\n")
    config = settings(tmp_path / "m.ckpt", phase_map=str(tmp_path / "map.csv"))
    own = build(config, ("cut", "other")).classifier[-1]
    torch.testing.assert_close(own.weight[0], (source.weight[0] + source.weight[2]) / 2)
    torch.testing.assert_close(own.bias[0], (source.bias[0] + source.bias[2]) / 2)
    assert torch.equal(own.weight[1], source.weight[1])


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_another_image_size_resamples_positions_and_takes_the_rest(tmp_path, backbone):
    source = save(tmp_path / "m.ckpt", backbone, size=96)
    network = build(settings(tmp_path / "m.ckpt", backbone=backbone))
    ours, theirs = network.state_dict(), source.state_dict()
    resized = [name for name, value in theirs.items() if ours[name].shape != value.shape]
    assert "fusion.position" in resized
    assert ("image_encoder.pos_embed" in resized) == (backbone == "test_vit")
    assert all("pos" in name for name in resized)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name not in resized)
    old, new = theirs["fusion.position"], ours["fusion.position"]
    assert math.isclose(float(old.mean()), float(new.mean()), abs_tol=0.01)


@pytest.mark.parametrize(("there", "here"), [("rg", "chroma"), ("none", "rg"), ("rg", "none")])
def test_a_fusion_of_other_masks_starts_anew(tmp_path, there, here):
    source = save(tmp_path / "m.ckpt", mask=there)
    network = build(settings(tmp_path / "m.ckpt", mask=here))
    ours, theirs = network.state_dict(), source.state_dict()
    shared = {name for name in ours.keys() & theirs.keys() if not name.startswith("fusion.")}
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    if here == "chroma":
        assert not torch.equal(ours["fusion.position"], theirs["fusion.position"])


def test_a_fusion_without_motion_is_not_taken_by_a_network_that_sees_it(tmp_path):
    source = save(tmp_path / "m.ckpt")
    network = build(settings(tmp_path / "m.ckpt", window_image="mean+motion"))
    assert {name.partition(".")[0] for name in differing(network, source)} == {"fusion"}
    assert network.fusion.patches.weight.shape[1] == 3


def test_the_frame_model_under_a_temporal_model_is_taken(tmp_path):
    source = save(tmp_path / "m.ckpt")
    width = 2 * source.norm.normalized_shape[0]
    head = save_temporal_checkpoint(
        tmp_path / "head.ckpt", EncoderSource(name=str(tmp_path / "m.ckpt")), ("a", "b"), width
    )
    network = build(settings(head))
    assert differing(network, source) == []


def test_a_temporal_checkpoint_holds_what_its_encoder_has_seen(tmp_path):
    before = Origin(case_hashes=(hash_case("p"),), video_hashes=("1-a",), licence="mit")
    save(tmp_path / "m.ckpt", training=summary("q", videos=("2-b",)), origin=before)
    frame_model = read_payload(tmp_path / "m.ckpt")
    for cases, videos in (("q", {"1-a", "2-b"}), ("r", None)):
        save(tmp_path / "head.ckpt", training=summary(*cases))
        write_temporal_checkpoint({}, tmp_path / "head.ckpt", tmp_path / "both.ckpt", frame_model)
        found = read_payload(tmp_path / "both.ckpt")
        assert found.seen_case_hashes == {hash_case(case) for case in {"p", "q", *cases}}
        assert found.seen_video_hashes == videos
        assert found.origin.licence == "mit"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"backbone": "test_efficientnet"},
            "give --backbone test_vit instead of test_efficientnet",
        ),
        (
            {"init_checkpoint": "/none.ckpt"},
            r"--init_checkpoint: checkpoint /none\.ckpt does not exist",
        ),
        (
            {"init_checkpoint": "/"},  # as one of several values in --search
            r"--init_checkpoint / is a folder; a search takes files: give a checkpoint in it",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_cure(tmp_path, changes, says):
    save(tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=says) as caught:
        read_start(settings(tmp_path / "m.ckpt", **changes), PHASES)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_program_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=r"--init_checkpoint .*was not written by ophnet-ray"):
        read_start(settings(tmp_path / "m.ckpt"), PHASES)


def test_a_checkpoint_in_a_bucket_is_fetched(tmp_path, bucket):
    from ophnet_ray.storage.files import upload

    source = save(tmp_path / "m.ckpt")
    upload(tmp_path / "m.ckpt", bucket.uri("start/m.ckpt"))
    config = settings(bucket.uri("start/m.ckpt"))
    assert differing(build(config), source) == []
    assert config.identity() == settings(tmp_path / "m.ckpt").identity()


def test_the_origin_holds_the_cases_of_all_trainings_before(tmp_path):
    before = Origin(case_hashes=(hash_case("p"),), video_hashes=("1-a",), licence="mit")
    save(tmp_path / "m.ckpt", training=summary("q", videos=("2-b",)), origin=before)
    origin = read_start(settings(tmp_path / "m.ckpt"), PHASES).describe_origin()
    assert set(origin.case_hashes) == {hash_case("p"), hash_case("q")}
    assert set(origin.video_hashes) == {"1-a", "2-b"}
    assert origin.licence == "mit"
    save(tmp_path / "old.ckpt", training=summary("q"), origin=before)
    old = read_start(settings(tmp_path / "old.ckpt"), PHASES).describe_origin()
    assert old.video_hashes is None, "a part of the videos is not all of them"


@pytest.mark.parametrize(
    ("flags", "licence"),
    [
        ({"backbone": "convnextv2_tiny", "pretrained": True}, "cc-by-nc-4.0"),
        ({"backbone": "convnextv2_tiny", "pretrained": False}, None),
        ({"backbone": "convnextv2_tiny", "backbone_weights": "w.pt"}, "unknown"),
        ({"init_checkpoint": "m.ckpt"}, "mit"),
    ],
)
def test_the_licence_of_the_first_weights_travels(flags, licence):
    origin = Origin(case_hashes=(), video_hashes=None, licence="mit")
    config = Config().replace_flat(**flags)
    payload = make_payload(
        config=config.to_flat(), origin=origin if "init_checkpoint" in flags else None
    )
    assert find_weights_licence(payload) == licence
