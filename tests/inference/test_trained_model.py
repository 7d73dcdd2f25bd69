"""Networks built again from checkpoints, also from those of earlier versions."""

import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.inference.trained_model import load_model
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    Preprocessing,
)
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit

SIZE = 32


@pytest.mark.parametrize("backbone", ["test_vit", "test_vit2"])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_vision_transformer_pools_as_it_was_trained(tmp_path, backbone, is_old):
    """Checkpoints without a word about pooling are of versions that averaged all tokens."""
    torch.manual_seed(0)
    network = SurgicalPhaseClassificationModel(
        2, backbone, False, SIZE, pooling="all" if is_old else None
    ).eval()
    config = Config().replace_flat(backbone=backbone, pretrained=False, image_size=SIZE)
    payload = make_payload(
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        pooling=network.pooling,
    )
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, payload, network)
    content = torch.load(path, weights_only=True)
    assert ("pooling" in content[PAYLOAD_KEY]) != is_old
    # versions that average all tokens refuse what they would pool differently
    assert content[PAYLOAD_KEY]["format_version"] == (1 if is_old else 2)
    image, mask = torch.randn(2, 3, SIZE, SIZE), torch.rand(2, 2, SIZE, SIZE)
    loaded = load_model(path).network
    assert loaded.pooling == network.pooling
    with torch.no_grad():
        torch.testing.assert_close(loaded(image, mask), network(image, mask))
