"""The network learns from image and masks with any backbone."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ophnet_ray.config import ModelConfig
from ophnet_ray.models.network import MaskPatches, SurgicalPhaseClassificationModel

pytestmark = pytest.mark.unit

BACKBONES = ["test_maxvit", "test_efficientnet", "test_vit"]
SIZE = 64


def build(backbone, size=SIZE, **options):
    torch.manual_seed(0)
    return SurgicalPhaseClassificationModel(
        3, backbone, pretrained=False, image_size=size, **options
    )


def batch(num=4):
    torch.manual_seed(1)
    return torch.randn(num, 3, SIZE, SIZE), torch.rand(num, 2, SIZE, SIZE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_depend_on_the_image_and_on_the_mask(backbone):
    model = build(backbone).eval()
    image, mask = batch()
    with torch.no_grad():
        logits = model(image, mask)
        assert logits.shape == (4, 3)
        assert (model(image.flip(0), mask) - logits).abs().max() > 1e-3
        assert (model(image, mask.flip(0)) - logits).abs().max() > 1e-6


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trainable_tensor_gets_a_gradient_also_in_the_encoder(backbone):
    model = build(backbone).train()
    F.cross_entropy(model(*batch()), torch.tensor([0, 1, 2, 0])).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    encoder = [p.grad.norm() for p in model.image_encoder.parameters() if p.grad is not None]
    assert torch.stack(encoder).norm() > 1e-3


def learn(model, image, mask, labels):
    """Share of the labels right after a few steps on one batch, in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss = F.cross_entropy(model.train()(image, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            # the batch's own statistics: running ones of an image without contrast lag for long
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for _ in range(10):
            model.train()(image, mask)
        return (model.eval()(image, mask).argmax(1) == labels).float().mean().item()


# the smallest images in which the backbone sees three places. At 32 pixels the first column of
# patches of the mask tells them apart by itself; only at 64 are several needed: that is the guard
LEARNERS = pytest.mark.parametrize(
    ("backbone", "size"), [("test_maxvit", 32), ("test_efficientnet", 64)]
)


@LEARNERS
def test_what_only_the_mask_tells_is_learnt(backbone, size):
    labels = torch.tensor([0, 1, 2] * 4)
    image = torch.zeros(12, 3, size, size)
    mask = torch.zeros(12, 2, size, size)
    third = size // 3
    for i, label in enumerate(labels):  # the same area, in three places
        mask[i, 0, :, third * label : third * label + third] = 1
    assert learn(build(backbone, size), image, mask, labels) == 1.0


@LEARNERS
def test_what_only_the_image_tells_is_learnt(backbone, size):
    labels = torch.tensor([0, 1, 2] * 4)
    torch.manual_seed(2)
    image = torch.randn(12, 3, size, size) * 0.1
    for i, label in enumerate(labels):
        image[i, label] += 1
    mask = torch.full((12, 2, size, size), 0.5)
    assert learn(build(backbone, size), image, mask, labels) == 1.0


def test_the_network_knows_the_kind_of_its_masks():
    assert build("test_vit").mask == ModelConfig.mask
    assert build("test_vit", mask="chroma").mask == "chroma"


def test_without_masks_there_is_no_fusion():
    model = build("test_vit", mask="none").eval()
    image, mask = batch()
    assert model.fusion is None
    torch.testing.assert_close(model(image, mask), model(image, mask.flip(0)))


def test_batch_norm_is_frozen_only_when_it_starts_from_weights(tmp_path):
    """Also in a network on which nobody has called train()."""
    fresh = build("test_efficientnet")
    assert any(m.training for m in fresh.image_encoder.modules() if "BatchNorm" in type(m).__name__)
    torch.save(fresh.image_encoder.state_dict(), tmp_path / "w.pt")
    tuned = build("test_efficientnet", backbone_weights=str(tmp_path / "w.pt"))
    before = tuned.image_encoder.bn1.running_mean.clone()
    tuned(*batch())
    tuned.eval().train()(*batch())
    assert tuned.training
    torch.testing.assert_close(tuned.image_encoder.bn1.running_mean, before)


@pytest.mark.parametrize(
    ("backbone", "pooling", "num_pooled"),
    [
        ("test_vit", "class_and_patches", 2),  # 1 class token
        ("test_vit2", "patches", 1),  # 1 register, no class token
        ("test_efficientnet", "all", 1),
    ],
)
def test_the_feature_is_the_class_token_and_the_mean_of_the_patches(backbone, pooling, num_pooled):
    model = build(backbone, mask="none").eval()
    assert model.pooling == pooling
    image, mask = batch()
    pooled = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    with torch.no_grad():
        model(image, mask)
        features = model.image_encoder.forward_features(image)
        if pooling == "all":
            expected = model.norm(features.flatten(2).transpose(1, 2)).mean(dim=1)
        else:
            expected = model.norm(features[:, 1:]).mean(dim=1)
        if pooling == "class_and_patches":
            expected = torch.cat([model.norm(features[:, 0]), expected], dim=1)
    assert pooled[0].shape[1] == num_pooled * features.shape[-1 if features.ndim == 3 else 1]
    torch.testing.assert_close(pooled[0], expected)


@pytest.mark.slow
def test_the_default_backbone_is_built_and_run_once():
    model = SurgicalPhaseClassificationModel(52, pretrained=False).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 224, 224), torch.rand(1, 2, 224, 224))
    assert logits.shape == (1, 52)
    assert logits.isfinite().all()
    assert 200e6 < sum(p.numel() for p in model.parameters()) < 230e6


def test_patches_of_masks_are_the_same_as_a_convolution_and_as_a_matrix_product():
    torch.manual_seed(0)
    patches, mask = MaskPatches(2, 24), torch.rand(3, 2, 48, 32)
    patches.to(memory_format=torch.channels_last)
    convolved, multiplied = patches(mask), patches.multiply(mask)
    assert convolved.shape == (3, 6, 24)
    assert torch.allclose(convolved, multiplied, atol=1e-5)
