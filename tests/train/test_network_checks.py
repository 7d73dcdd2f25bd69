"""Checks of the network of a run, before a worker needs it."""

from contextlib import ExitStack

import pytest

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import UserError
from ophnet_ray.train.head_stages import prepare_head
from ophnet_ray.train.network_checks import check_given_encoder, check_network, check_recipe
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import open_run
from tests.helpers.runs import tiny_config
from tests.helpers.small_encoders import SMALL

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "convnextv2_tiny"}, "--backbone convnextv2_tiny: .*forbids commercial use"),
        ({"backbone": "convnextv2_tiny", "allow_noncommercial": True}, None),
        ({"backbone": "convnextv2_tiny", "pretrained": False}, None),
        ({"backbone": "convnextv2_tiny", "backbone_weights": "/w.pt"}, None),
        ({"temporal": "gru", "encoder": "hiera_tiny_224.mae"}, "--encoder hiera_tiny_224.mae: "),
        ({"temporal": "gru", "encoder": "/m.ckpt", "backbone": "convnextv2_tiny"}, None),
        ({"backbone": "vit_small_patch14_dinov2", "image_size": 256}, "--image_size 256: 4 rows"),
        ({"backbone": "vit_small_patch14_dinov2"}, None),
    ],
)
def test_the_network_of_a_new_run_is_checked_by_its_name(settings, says):
    config = Config().replace_flat(**settings)
    if says is None:
        check_network(config)
    else:
        with pytest.raises(UserError, match=says):
            check_network(config)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"freeze": "stages:9"}, "--freeze stages:9: the backbone test_resnet has 4 stages"),
        ({"lora_rank": 4}, "--lora_rank 4: the backbone test_resnet has no linear layers"),
        (
            {"drop_path_rate": 0.1, "backbone": "vgg11"},
            "--drop_path_rate 0.1: the backbone vgg11 has no residual branches to drop; give 0",
        ),
    ],
)
def test_a_recipe_that_does_not_suit_the_backbone_is_refused_before_training(
    color_csv, tmp_path, settings, says
):
    config = tiny_config(color_csv, tmp_path)
    check_recipe(config)
    check_recipe(config.replace_flat(drop_path_rate=0.0, backbone="vgg11"))
    with pytest.raises(UserError, match=says):
        check_recipe(config.replace_flat(**settings))


def test_the_licence_of_a_given_encoder_is_shown_and_one_that_timm_alone_knows_is_refused(
    color_csv, tmp_path
):
    said = []
    config = tiny_config(color_csv, tmp_path, temporal="gru", encoder="test_vit.r160_in1k")
    check_given_encoder(config, said.append)
    assert said == ["encoder test_vit.r160_in1k: loading pretrained weights, licence apache-2.0"]
    # its name is not in our list, as that of a model of a later timm is not
    newer = SMALL["convnextv2_tiny.fcmae_ft_in22k_in1k"]
    config = config.replace_flat(encoder=newer)
    checked = check_input(config, Console())
    run = open_run(checked.config, checked.data, Console())
    with pytest.raises(UserError, match=f"--encoder {newer}: .*cc-by-nc-4.0, forbids"):
        prepare_head(run, Resources(1, False, 1, 1), ExitStack())
    check_given_encoder(config.replace_flat(allow_noncommercial=True), said.append)
    assert said[1].endswith("licence cc-by-nc-4.0 (no commercial use)")
