"""Weights of encoders from files that other training programs wrote."""

import pytest
import torch

from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.encoder_weights import load_encoder_weights

pytestmark = pytest.mark.unit

SIZE = 64


def encoder(backbone="test_vit", size=SIZE, seed=0):
    torch.manual_seed(seed)
    return create_encoder(backbone, size, pretrained=False)


def load(path, backbone="test_vit", size=SIZE):
    fresh = encoder(backbone, size, seed=1)
    return fresh, load_encoder_weights(fresh, str(path), backbone, size)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(encoder().state_dict(), path)
    with pytest.raises(UserError, match="does not fit the backbone: it lacks conv_stem"):
        load(path, "test_efficientnet")
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="it holds no tensor"):
        load(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="is not a file of weights"):
        load(path)
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.pt")


def test_one_missing_tensor_is_named_not_left_random(tmp_path):
    state = encoder().state_dict()
    del state["blocks.1.mlp.fc1.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"it lacks blocks\.1\.mlp\.fc1\.weight \(1 of "):
        load(tmp_path / "w.pt")


def renamed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


LAYOUTS = {
    "timm": lambda own, _: own,
    "lightning": lambda own, _: {"state_dict": renamed(own, "model.image_encoder.")},
    "our own": lambda own, _: {"state_dict": renamed(own, "model.model.image_encoder.")},
    "data parallel": lambda own, _: {"model": renamed(own, "module.")},
    "dino": lambda own, other: {
        "student": renamed(other, "module.backbone."),
        "teacher": renamed(own, "backbone.") | {"head.mlp.0.weight": torch.ones(2, 2)},
        "epoch": 100,
    },
    "dino in one": lambda own, other: (
        renamed(other, "student.backbone.") | renamed(own, "teacher.backbone.")
    ),
    "mae": lambda own, _: {
        "model": own | {"mask_token": torch.ones(1, 1, 64), "decoder_embed.weight": torch.ones(3)}
    },
    "surgenet": lambda own, _: {"model_state_dict": renamed(own, "encoder.")},
    "part": lambda own, _: {
        "encoder": own,
        "optimizer": {"state": {0: {"exp_avg": own["norm.bias"]}}},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_in_the_files_of_training_programs(tmp_path, layout):
    trained, other = encoder().state_dict(), encoder(seed=2).state_dict()
    torch.save(LAYOUTS[layout](trained, other), tmp_path / "w.pt")
    fresh, use = load(tmp_path / "w.pt")
    assert use.num_used == use.num_tensors == len(trained)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


@pytest.mark.parametrize("prefix", ["", "module."])
def test_blocks_that_repeat_the_names_of_the_network_are_not_taken_for_it(tmp_path, prefix):
    trained = encoder("test_resnet").state_dict()
    torch.save(renamed(trained, prefix), tmp_path / "w.pt")
    fresh, _ = load(tmp_path / "w.pt", "test_resnet")
    assert torch.equal(fresh.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


@pytest.mark.parametrize("backbone", ["test_vit", "test_maxvit"])
def test_weights_of_another_image_size_are_resampled(tmp_path, backbone):
    trained = encoder(backbone, 160).state_dict()
    torch.save(trained, tmp_path / "w.pt")
    fresh, use = load(tmp_path / "w.pt", backbone, 128)
    own = fresh.state_dict()
    resized = [name for name in own if own[name].shape != trained[name].shape]
    assert str(use).startswith(f"{use.num_tensors} of {use.num_tensors} tensors used")
    assert any("pos" in name for name in resized)
    learned = [name for name in own if own[name].is_floating_point() and name not in resized]
    assert all(torch.equal(own[name], trained[name]) for name in learned)
