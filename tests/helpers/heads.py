"""Checkpoints with a temporal model, with random weights, as a training run writes them."""

from pathlib import Path

import torch

from ophnet_ray.inference.encoder import load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.models.payload import PAYLOAD_KEY
from ophnet_ray.models.temporal_checkpoint import write_temporal_checkpoint
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.models.temporal_spec import HeadPayload, TemporalSpec
from ophnet_ray.temporal_config import TemporalConfig
from tests.helpers.checkpoints import make_payload


def save_temporal_checkpoint(
    path: Path,
    source: EncoderSource,
    phases,
    num_inputs: int,
    *,
    training=None,
    sharpness=1.0,
    **settings,
) -> Path:
    """Write a checkpoint with the encoder of a source and a temporal model; return its path."""
    changes = {} if training is None else {"training": training}
    encoder = load_encoder(source)
    settings = {"temporal": "mstcn", "temporal_layers": 4, "temporal_channels": 8} | settings
    spec = TemporalSpec.of_config(TemporalConfig(**settings), num_inputs, len(phases))
    torch.manual_seed(1)
    head = TemporalModel(spec)
    with torch.no_grad():
        for weights in head.parameters():
            weights.mul_(sharpness)
    encoding = encoder.encoding(spec.frame_rate, spec.causal)
    payload = make_payload(
        len(phases),
        phases=tuple(phases),
        preprocessing=encoder.preprocessing,
        pooling=encoding.pooling,
        config={},
        head=HeadPayload(
            spec=spec,
            backbone=encoding.backbone,
            num_encoder_classes=encoder.num_classes,
            encoder_phases=encoder.phases,
        ),
        **changes,
    )
    trained = path.with_name("trained.ckpt")
    state = {f"head.{name}": value for name, value in head.state_dict().items()}
    torch.save({"state_dict": state, PAYLOAD_KEY: payload.to_dict()}, trained)
    write_temporal_checkpoint(encoder.state(), trained, path)
    return path
