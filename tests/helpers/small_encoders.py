"""Foundation encoders of timm at the size of its ``test_*`` models: fewer and narrower blocks.

Each is registered under ``small_<architecture>`` and keeps the settings of its weights (mean, std,
input size, licence), so that every door that takes a ``--backbone`` takes it.
"""

from collections import deque

import timm
from timm.models import DefaultCfg, model_entrypoint, register_model

default_cfgs = {}
"""Settings of the weights by name, where ``register_model`` looks for them."""


def shrink(name, **changes):
    """Register a small twin of a timm model; return its name.

    Args:
        name: Architecture and tag of the real model.
        changes: Options of its constructor that make it small.
    """
    architecture, _, tag = name.partition(".")
    build = model_entrypoint(architecture)

    def twin(pretrained=False, **options):
        return build(pretrained=pretrained, **options, **changes)

    return _register(twin, architecture, tag, name)


def shrink_metaformer(name):
    """Register a twin with one block per stage; depths are no option of its constructor."""
    architecture, _, tag = name.partition(".")
    build = model_entrypoint(architecture)

    def twin(pretrained=False, **options):
        network = build(pretrained=pretrained, **options)
        for stage in network.stages:
            stage.blocks = stage.blocks[:1]
        return network

    return _register(twin, architecture, tag, name)


def _register(twin, architecture, tag, name):
    twin.__name__, twin.__module__ = f"small_{architecture}", __name__
    settings = timm.get_pretrained_cfg(name)
    default_cfgs[twin.__name__] = DefaultCfg(tags=deque([tag]), cfgs={tag: settings})
    register_model(twin)
    return f"{twin.__name__}.{tag}"


_VIT = {"depth": 1, "embed_dim": 32, "num_heads": 2}
_STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 32)}
_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}

SMALL = {
    name: shrink(name, **changes)
    for name, changes in {
        "vit_small_patch14_dinov2.lvd142m": _VIT,
        "vit_small_patch14_reg4_dinov2.lvd142m": _VIT,
        "vit_small_patch16_dinov3.lvd1689m": _VIT,
        "vit_small_plus_patch16_dinov3.lvd1689m": _VIT,
        "vit_7b_patch16_dinov3.lvd1689m": _VIT,
        "convnext_tiny.dinov3_lvd1689m": _STAGES,
        "convnextv2_tiny.fcmae_ft_in22k_in1k": _STAGES,
        "maxvit_base_tf_224.in21k": {
            "depths": (1, 1, 1, 1), "embed_dim": (32, 32, 32, 32), "stem_width": 16,
        },
        "swinv2_base_window12to16_192to256.ms_in22k_ft_in1k": _SWIN,
        "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k": _VIT,
        "vit_base_patch16_siglip_224.v2_webli": _VIT,
        "vit_pe_core_base_patch16_224.fb": _VIT,
        "vit_pe_spatial_base_patch16_512.fb": _VIT,
        "vit_base_patch14_reg1_tipsv2.webli": _VIT,
        "vit_base_patch16_224.mae": _VIT,
        "hiera_tiny_224.mae": {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)},
    }.items()
} | {
    "caformer_s18.sail_in22k_ft_in1k": shrink_metaformer("caformer_s18.sail_in22k_ft_in1k"),
}  # fmt: skip
"""Names of the small twins by the names of the real models."""
