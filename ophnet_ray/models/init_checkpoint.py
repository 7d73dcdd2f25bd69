"""Start of a training from a checkpoint: the tensors and classifier rows that a new network takes.

The encoder is taken whole; timm resamples position tables to another image size. The fusion is
taken if it saw masks of the same kind, its positions resampled likewise. A row of the classifier is
the mean of the rows of the source phases. No other weight depends on the windows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.config import Config
from ophnet_ray.data.phase_map import PhaseMap, match_phases
from ophnet_ray.data.windows import name_masks
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.models.backbone_names import UNKNOWN, read_licence
from ophnet_ray.models.checkpoint_file import load_checkpoint, read_payload
from ophnet_ray.models.checkpoints import describe_missing
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import absolute, is_remote
from ophnet_ray.temporal_config import CHECKPOINT_SUFFIX

if TYPE_CHECKING:
    # loaded by the functions that build a network: wrong flags are refused before timm loads
    from torch import Tensor, nn

    from ophnet_ray.models.network import MaskFusion, SurgicalPhaseClassificationModel

FLAG = "--init_checkpoint"
_PREFIX = "model."
_FIRST_LAYER, _LAST_LAYER = "classifier.0.", "classifier.3."


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Checkpoint that a training starts from, read without its weights.

    Attributes:
        file: The file on this machine.
        payload: Its payload.
        phases: Phases of its classifier.
        map: Phases whose rows the classifier of the data takes.
    """

    file: Path
    payload: CheckpointPayload
    phases: tuple[str, ...]
    map: PhaseMap

    def new_phases(self, phases: Sequence[str]) -> list[str]:
        """Return the phases of the data whose rows start anew."""
        return [name for name, rows in zip(phases, self.map.sources, strict=True) if not rows]

    def describe_origin(self) -> Origin:
        """Return everything that the weights have seen, for the checkpoints of this training."""
        return describe_origin(self.payload)


def read_start(config: Config, phases: Sequence[str]) -> Start | None:
    """Read the checkpoint that a run starts from, and match its phases; None without one.

    Args:
        config: Settings of the run.
        phases: Vocabulary of its data.

    Raises:
        UserError: The checkpoint or ``--phase_map`` cannot be read, its backbone is another one, or
            it holds no classifier of frames.
    """
    path = config.model.init_checkpoint
    if path is None:
        return None
    file = _locate(path)
    try:
        payload = read_payload(file)
    except UserError as error:
        raise UserError(f"{FLAG} {path}: {error}") from error
    head = payload.head
    if head is not None and not head.num_encoder_classes:
        raise UserError(
            f"{FLAG} {path}: its encoder is a timm model that no training has changed; give "
            f"--backbone {head.backbone}"
        )
    backbone = head.backbone if head else payload.settings.model.backbone
    if backbone.partition(".")[0] != config.model.backbone.partition(".")[0]:
        raise UserError(
            f"{FLAG} {path}: its backbone is another one; give --backbone {backbone} instead of "
            f"{config.model.backbone}"
        )
    own = head.encoder_phases if head else payload.phases
    return Start(
        file=file,
        payload=payload,
        phases=own,
        map=match_phases(config.model.phase_map, own, phases),
    )


def _locate(path: str) -> Path:
    """Return the file on this machine; one in a bucket is fetched.

    Raises:
        UserError: It does not exist, or is a folder: trials of a search take no run directories.
    """
    try:
        file = fetch_version(path) if is_remote(path) else Path(absolute(path))
    except OSError as error:
        raise UserError(f"{FLAG} {error}") from error
    if file.is_dir():
        raise UserError(f"{FLAG} {path} is a folder; a search takes files: give a checkpoint in it")
    if not file.is_file():
        raise UserError(f"{FLAG}: {describe_missing(path)}")
    return file


def build_network(
    config: Config, phases: Sequence[str], resumed: CheckpointPayload | None = None
) -> "SurgicalPhaseClassificationModel":
    """Build the network of a run, with the weights of the checkpoint that it starts from.

    Args:
        config: Settings of the run.
        phases: Vocabulary of its data.
        resumed: Payload of the run's own checkpoint, whose weights will be loaded; else None.

    Raises:
        UserError: Weights cannot be read, or do not fit.
    """
    import torch

    from ophnet_ray.models.network import SurgicalPhaseClassificationModel

    start = None if resumed else read_start(config, phases)
    source = resumed or (start.payload if start else None)
    network = SurgicalPhaseClassificationModel.from_config(
        len(phases),
        config.model,
        config.windows.image_size,
        # what was trained keeps its pooling, also that of an earlier version
        source.pooling if source else None,
        window_image=config.windows.window_image,
        drop_path_rate=config.recipe.drop_path_rate,
    )
    if source is not None:
        # so does its normalisation, whatever the installed timm thinks of this backbone
        network.mean.copy_(torch.tensor(source.preprocessing.mean))
        network.std.copy_(torch.tensor(source.preprocessing.std))
    if start is not None:
        _take(network, start, config)
    return network


def _take(network: "SurgicalPhaseClassificationModel", start: Start, config: Config) -> None:
    """Load what fits of the checkpoint into the network of a run.

    Raises:
        UserError: The checkpoint is damaged, or its encoder does not fit.
    """
    from ophnet_ray.models.encoder_weights import take_weights

    path = config.model.init_checkpoint
    masks = name_masks(network.mask, config.windows.window_image)
    saved, _ = load_checkpoint(start.file)
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in saved.items()
        if name.startswith(_PREFIX)
    }
    take_weights(
        network.image_encoder,
        _below("image_encoder.", state),
        f"{FLAG} {path}",
        config.model.backbone,
        config.windows.image_size,
    )
    try:
        if network.fusion is not None and start.payload.preprocessing.masks == masks:
            _take_fusion(network.fusion, _below("fusion.", state))
        network.norm.load_state_dict(_below("norm.", state))
        network.classifier[0].load_state_dict(_below(_FIRST_LAYER, state))
        _take_rows(network.classifier[-1], _below(_LAST_LAYER, state), start.map)
    except (KeyError, RuntimeError) as error:
        reason = one_line(error, max_chars=200)
        raise UserError(f"{FLAG} {path} does not fit the network: {reason}") from error


def _below(prefix: str, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _take_fusion(fusion: "MaskFusion", state: "Mapping[str, Tensor]") -> None:
    """Load the fusion; the positions of its patches are resampled to those of the network."""
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(fusion.position.shape[1])
    position = resample_abs_pos_embed(state["position"], [side, side], num_prefix_tokens=0)
    fusion.load_state_dict({**state, "position": position})


def _take_rows(layer: "nn.Module", state: "Mapping[str, Tensor]", phase_map: PhaseMap) -> None:
    """Set the rows of the last layer to the means of their source rows; others stay new."""
    own = layer.state_dict()
    for label, sources in enumerate(phase_map.sources):
        if sources:
            for name, values in state.items():
                own[name][label] = values[list(sources)].mean(dim=0)
    layer.load_state_dict(own)


def describe_origin(payload: CheckpointPayload) -> Origin:
    """Return everything that the weights of a checkpoint have seen, in its training and before."""
    videos = payload.seen_video_hashes
    return Origin(
        case_hashes=tuple(sorted(payload.seen_case_hashes)),
        video_hashes=None if videos is None else tuple(sorted(videos)),
        licence=find_weights_licence(payload),
    )


def find_weights_licence(payload: CheckpointPayload) -> str | None:
    """Return the licence of the first weights of a checkpoint's encoder, those of its origin.

    ``unknown`` for a file of weights; None for random weights. It is that of timm's weights for
    the names that the settings give.
    """
    settings, head = payload.settings, payload.head
    if payload.origin is not None:
        return payload.origin.licence
    encoder = settings.temporal.encoder if head else None
    if encoder is not None:
        # of a checkpoint that was given as encoder, the name of its file alone is known
        return UNKNOWN if encoder.endswith(CHECKPOINT_SUFFIX) else read_licence(encoder)
    if settings.model.fetches_weights:
        return read_licence(settings.model.backbone)
    return UNKNOWN if settings.model.backbone_weights is not None else None
