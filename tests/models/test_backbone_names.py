"""Facts that timm's names tell agree with timm, and are told without it."""

import re

import pytest
import timm

from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone_names import (
    check_licence,
    describe_licence,
    find_noncommercial,
    find_uncovered_pixels,
    forbids_commercial_use,
    read_licence,
)

pytestmark = pytest.mark.unit


def test_the_names_of_weights_without_commercial_use_are_those_of_timm():
    listed = {*timm.list_models(), *timm.list_models(pretrained=True)}
    names = {name for name in listed if not name.startswith("small_")}  # tests register these
    assert len(names) > 2000
    differ = {}
    for name in sorted(names):
        licence = read_licence(name)
        ours = find_noncommercial(name)
        if ours != (licence if forbids_commercial_use(licence) else None):
            differ[name] = (ours, licence)
    assert differ == {}


def test_former_names_of_timm_have_the_licence_of_the_weights_that_they_stand_for():
    aliases = timm.models._registry._deprecated_models  # timm lists them nowhere else
    former = {
        name: now
        for name, now in aliases.items()
        if now and now in timm.list_models(pretrained=True)
    }
    assert former["swsl_resnet18"] == "resnet18.fb_swsl_ig1b_ft_in1k"
    differ = {
        name: now
        for name, now in former.items()
        if (find_noncommercial(name) is None) == forbids_commercial_use(read_licence(now))
    }
    assert differ == {}


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("maxvit_large_tf_224.in21k", "licence apache-2.0"),
        ("vit_small_patch16_dinov3.lvd1689m", "licence dinov3-license"),
        ("convnextv2_tiny", "licence cc-by-nc-4.0 (no commercial use)"),
        ("fastvit_mci0", "licence apple-amlr (no commercial use)"),
        ("dla60_res2net.in1k", "licence unknown"),
        ("cpubone_b0_bfrobust.r224_in1k", "licence unknown"),  # timm says nothing
        ("caformer_s18", "licence apache-2.0"),
    ],
)
def test_a_licence_is_told_in_the_words_of_timm(backbone, says):
    assert describe_licence(read_licence(backbone)) == says


def test_weights_that_forbid_commercial_use_need_the_user_s_word():
    licence = find_noncommercial("hiera_tiny_224.mae")
    says = (
        r"--backbone hiera_tiny_224\.mae: .* cc-by-nc-4\.0, forbids commercial use; give --allow_n"
    )
    with pytest.raises(UserError, match=says):
        check_licence("--backbone", "hiera_tiny_224.mae", licence, is_allowed=False)
    check_licence("--backbone", "hiera_tiny_224.mae", licence, is_allowed=True)
    for licence in ("unknown", "apache-2.0", "dinov3-license", None):
        check_licence("--backbone", "any", licence, is_allowed=False)


@pytest.mark.parametrize(
    ("backbone", "size", "says"),
    [
        ("vit_small_patch14_reg4_dinov2.lvd142m", 224, None),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 448, None),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 256, r"4 rows and columns .* give 224 or 448"),
        ("eva02_base_patch14_448", 128, r"2 rows and columns .* 14 pixels .* give 224 or 448"),
        ("vit_small_patch16_dinov3", 96, None),
        ("vit_small_patch8_224.dino", 96, None),
        ("maxvit_large_tf_224.in21k", 96, None),
    ],
)
def test_patches_of_14_pixels_do_not_cover_every_image(backbone, size, says):
    found = find_uncovered_pixels("--backbone", backbone, size)
    assert (found is None) == (says is None)
    assert says is None or re.search(says, found)
