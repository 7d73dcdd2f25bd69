"""Checks of the network of a run: by its names at first, then by timm, before a worker needs it."""

from collections.abc import Callable
from dataclasses import replace

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.models.backbone_names import (
    check_commercial_use,
    check_licence,
    describe_licence,
    describe_weights,
    find_uncovered_pixels,
)
from ophnet_ray.temporal_config import CHECKPOINT_SUFFIX


def check_network(config: Config) -> None:
    """Check the network of a new run by its name, without timm: its patches and its licence.

    A run that an earlier version began goes on without this check.

    Raises:
        UserError: The patches do not cover the image, the encoder sees no motion, or the weights
            forbid commercial use.
    """
    flag, name = "--backbone", config.model.backbone
    is_pretrained = config.model.fetches_weights
    if config.temporal.is_used and config.temporal.encoder is not None:
        flag, name, is_pretrained = "--encoder", config.temporal.encoder, True
        EncoderSource(name=name, windows=config.windows).located()
    if not name.endswith(CHECKPOINT_SUFFIX):
        uncovered = find_uncovered_pixels(flag, name, config.windows.image_size)
        if uncovered is not None:
            raise UserError(uncovered)
        if is_pretrained:
            check_commercial_use(flag, name, config.model.allow_noncommercial)


def check_backbone(config: Config, on_notice: Callable[[str], None]) -> None:
    """Build the network here, so that a GPU worker does not fail to do so later.

    Raises:
        UserError: It cannot be built.
    """
    # timm loads torch: only once everything cheaper was right
    from ophnet_ray.models.backbone import probe_backbone
    from ophnet_ray.models.init_checkpoint import build_network
    from ophnet_ray.models.network import SurgicalPhaseClassificationModel

    # the same call as that of the network, whose answer is kept
    probe_backbone(config.model.backbone, config.windows.image_size, None)
    starts = config.model.fetches_weights or config.model.backbone_weights is not None
    if config.model.init_checkpoint is not None:
        # phases do not matter here: encoder and fusion have to fit
        without_map = replace(config, model=replace(config.model, phase_map=None))
        build_network(without_map, ("0", "1"))
        _tell_of_first_weights(without_map, on_notice)
    elif starts:
        model = config.model
        weights = describe_weights(
            "--backbone", model.backbone, model.backbone_weights, model.allow_noncommercial
        )
        on_notice(f"backbone {config.model.backbone}: loading {weights}")
        network = SurgicalPhaseClassificationModel.from_config(
            2, config.model, config.windows.image_size, window_image=config.windows.window_image
        )
        if network.weights_use is not None:
            on_notice(f"backbone {config.model.backbone}: {network.weights_use}")


def check_recipe(config: Config) -> None:
    """Make sure that the backbone has what the recipe names: stages, linear layers, drop path.

    Raises:
        UserError: It has not; the flag is named.
    """
    from ophnet_ray.models.network import outline_network

    outline_network(2, config)


def check_given_encoder(config: Config, on_notice: Callable[[str], None]) -> None:
    """Show the licence of the timm model that a run is given as encoder; loads timm.

    Checkpoints have shown theirs when they were trained.

    Raises:
        UserError: It forbids commercial use, and that is not allowed.
    """
    name = config.temporal.encoder
    if name is None or name.endswith(CHECKPOINT_SUFFIX):
        return
    weights = describe_weights("--encoder", name, None, config.model.allow_noncommercial)
    on_notice(f"encoder {name}: loading {weights}")


def _tell_of_first_weights(config: Config, on_notice: Callable[[str], None]) -> None:
    """Show the licence of the weights from which the training behind a checkpoint started.

    Raises:
        UserError: It forbids commercial use, and that is not allowed.
    """
    from ophnet_ray.models.init_checkpoint import read_start

    start = read_start(config, ())
    licence = start.describe_origin().licence if start else None
    if licence is not None:
        path = config.model.init_checkpoint
        on_notice(f"--init_checkpoint {path}: its first weights, {describe_licence(licence)}")
        check_licence("--init_checkpoint", str(path), licence, config.model.allow_noncommercial)
