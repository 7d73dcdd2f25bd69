"""Low-rank updates of linear layers: what is trained, and the sum that checkpoints hold."""

import pytest
import torch

from ophnet_ray.config import ModelConfig
from ophnet_ray.errors import UserError
from ophnet_ray.models.lora import merge_lora
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.recipe_config import RecipeConfig

pytestmark = pytest.mark.unit

SIZE, RANK = 32, 2


def build_network(backbone, recipe=None):
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, pretrained=False)
    network = SurgicalPhaseClassificationModel.from_config(2, config, SIZE)
    network.adapt(recipe or RecipeConfig())
    return network.eval()


def make_input():
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return image, image[:, :2]


@pytest.mark.parametrize("backbone", ["test_vit", "test_maxvit"])
def test_updates_of_the_given_rank_are_trained_in_place_of_the_encoder(backbone):
    network = build_network(backbone, RecipeConfig(lora_rank=RANK))
    plain = build_network(backbone)
    assert torch.equal(network(*make_input()), plain(*make_input())), "the first sum is the weight"
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    of_encoder = {n: p for n, p in trained.items() if n.startswith("image_encoder.")}
    assert of_encoder
    assert all(RANK in p.shape and ".lora_" in n for n, p in of_encoder.items())
    assert trained.keys() - of_encoder.keys() == {
        n for n, _ in plain.named_parameters() if not n.startswith("image_encoder.")
    }
    network(*make_input()).sum().backward()
    assert [n for n, p in trained.items() if p.grad is None] == [], "DDP would wait for these"


@pytest.mark.parametrize("backbone", ["test_vit", "test_maxvit"])
def test_merged_weights_give_a_plain_network_the_same_logits(backbone):
    network = build_network(backbone, RecipeConfig(lora_rank=RANK))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.1)
    plain = build_network(backbone)
    before = plain(*make_input())
    plain.load_state_dict(merge_lora(network.state_dict()))
    assert torch.equal(plain(*make_input()), network(*make_input()))
    assert not torch.allclose(plain(*make_input()), before)


def test_a_backbone_without_linear_layers_is_refused():
    with pytest.raises(UserError, match="--lora_rank 2: the backbone test_resnet has no linear"):
        build_network("test_resnet", RecipeConfig(lora_rank=RANK))
