"""Foundation encoders of timm: input, tokens, and the same logits after a checkpoint."""

import numpy as np
import pytest
import timm
import torch
from timm.layers import global_pool_nlc
from torch.nn import functional as F  # noqa: N812

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.inference.export import convert_images
from ophnet_ray.inference.trained_model import WithPreprocessing, load_model
from ophnet_ray.models.backbone import pool_tokens, to_tokens
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import Preprocessing
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.small_encoders import SMALL

pytestmark = pytest.mark.unit

POOLING = {
    "class_and_patches": [
        "dinov2",
        "dinov3.lvd",
        "eva02",
        "pe_core",
        "pe_spatial",
        "tipsv2",
        "mae",
    ],
    "all": ["convnext", "caformer", "maxvit", "swinv2", "siglip", "hiera"],
}
SIZE = 224


def pooling_of(name):
    is_hiera = name.startswith("hiera")  # its weights are called mae, too
    kinds = [kind for kind, parts in POOLING.items() if any(part in name for part in parts)]
    return "all" if is_hiera or name.startswith("convnext") else kinds[0]


class DependsOnPixels(torch.nn.Module):
    """A network whose next step depends on the pixels, which no export can follow."""

    def forward(self, pixels):
        image = pixels / 255
        return image.mean((2, 3)) if image.mean() > 0.5 else image.amax((2, 3))


class AttendsInThreeDimensions(torch.nn.Module):
    """A network that torch traces, but of whose attention ONNX has no form, as in Hiera."""

    def forward(self, pixels):
        rows = (pixels / 255)[:, None]
        return F.scaled_dot_product_attention(rows, rows, rows)


def build(name, size=SIZE):
    torch.manual_seed(0)
    return SurgicalPhaseClassificationModel(3, SMALL[name], False, size).eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_predicts_the_logits_of_the_network_that_was_trained(tmp_path, name):
    network, size = build(name), SIZE
    cfg = timm.get_pretrained_cfg(name)
    assert tuple(network.mean.tolist()) == pytest.approx(cfg.mean)
    assert tuple(network.std.tolist()) == pytest.approx(cfg.std)
    assert network.pooling == pooling_of(name)
    config = Config().replace_flat(backbone=SMALL[name], pretrained=False, image_size=size)
    payload = make_payload(
        3,
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        pooling=network.pooling,
    )
    save_checkpoint(tmp_path / "m.ckpt", payload, network)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    model = load_model(tmp_path / "m.ckpt")
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cfg.mean, cfg.std))
    with torch.inference_mode():
        logits = model.logits(image)
        tokens = network.image_encoder.forward_features((image - mean) / std)
        own = to_tokens(network.image_encoder, tokens, network.pooling)
        exported = WithPreprocessing(model).eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert logits.isfinite().all()
    assert (logits[0] - logits[1]).abs().max() > 1e-6
    torch.testing.assert_close(exported, logits.softmax(dim=1))
    np.testing.assert_allclose(model.predict(pixels), exported.numpy(), rtol=1e-5, atol=1e-6)
    assert own.shape[-1] == network.norm.normalized_shape[0]


@pytest.mark.parametrize("name", [n for n in SMALL if pooling_of(n) == "class_and_patches"])
def test_class_and_patches_are_those_that_timm_pools(name):
    network, size = build(name), SIZE
    encoder = network.image_encoder
    with torch.inference_mode():
        features = encoder.forward_features(torch.randn(2, 3, size, size))
        pooled = pool_tokens(to_tokens(encoder, features, network.pooling), network.pooling)
    expected = [
        global_pool_nlc(features, kind, num_prefix_tokens=encoder.num_prefix_tokens)
        for kind in ("token", "avg")
    ]
    torch.testing.assert_close(pooled, torch.cat(expected, dim=1))
    patch = 14 if "patch14" in name else 16
    assert features.shape[1] == encoder.num_prefix_tokens + (size // patch) ** 2


@pytest.mark.parametrize("name", SMALL)
def test_images_of_other_sizes_are_taken(name):
    size = 448 if "patch14" in name else 96
    network = build(name, size)
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, size, size), torch.rand(1, 2, size, size))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "error"),
    [(DependsOnPixels, "TorchExportError"), (AttendsInThreeDimensions, "ConversionError")],
)
def test_a_network_that_torch_cannot_convert_is_refused_in_one_line(kind, error):
    pytest.importorskip("onnxscript")
    network = kind().eval()
    with pytest.raises(UserError, match="torch cannot convert this network") as caught:
        convert_images(network, (3, 8, 8), ["probabilities"], {})
    assert "\n" not in str(caught.value)
    assert type(caught.value.__cause__).__name__ == error
