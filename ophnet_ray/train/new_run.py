"""Checks of a run that begins: its network, the checkpoint that it starts from, and their cases.

A run that has begun goes on without them: an earlier version may have had other rules.
"""

from collections.abc import Callable, Iterator, Sequence

from ophnet_ray.config import Config
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.data.windows import name_masks
from ophnet_ray.errors import UserError
from ophnet_ray.inference.seen_cases import find_trained_cases
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.init_checkpoint import FLAG, Start, read_start
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.storage.paths import is_remote
from ophnet_ray.temporal_config import CHECKPOINT_SUFFIX
from ophnet_ray.train.network_checks import check_network

MAX_NAMES = 5


def check_new_run(config: Config, data: RunData, tell: Callable[[str], None]) -> None:
    """Check the network of a new run, and the checkpoint that it starts from.

    Args:
        config: Settings with absolute paths.
        data: Rows of the run.
        tell: Receives lines about what is taken of the checkpoint.

    Raises:
        UserError: The network cannot be used, the checkpoint cannot be read or does not fit, or it
            was trained on cases that are to validate this training.
    """
    check_network(config)
    check_encoder_of_fold(config, data)
    if config.model.init_checkpoint is None:
        return
    if config.temporal.is_used and config.temporal.encoder is not None:
        raise UserError(f"{FLAG}: with --encoder no frame model is trained; leave one out")
    start = read_start(config, data.phases)
    if start is None:
        return
    for line in describe_start(start, config, data.phases):
        tell(line)
    seen = find_leaks(start.payload, data, config)
    if seen and not config.model.allow_seen_cases:
        raise UserError(
            f"{FLAG} {config.model.init_checkpoint} was trained on {len(seen)} of the cases that "
            f"this training holds out ({_list_names(seen)}): scores on them would say nothing "
            "about new cases; hold out others (a split column, another --seed), or give "
            "--allow_seen_cases"
        )


def check_encoder_of_fold(config: Config, data: RunData) -> None:
    """Make sure that the given encoder of a fold has not seen the cases of the fold.

    An encoder that was trained on the same data has, but for those of one fold. The check is only
    for checkpoints of this machine.

    Raises:
        UserError: It has; the cure is named.
    """
    encoder = config.temporal.encoder or ""
    is_file = encoder.endswith(CHECKPOINT_SUFFIX) and not is_remote(encoder)
    if config.data.fold is None or not is_file or config.model.allow_seen_cases:
        return
    if seen := find_leaks(read_payload(encoder), data, config):
        raise UserError(
            f"--encoder {encoder} was trained on {len(seen)} of the cases that the fold holds out "
            f"({_list_names(seen)}): leave it out, so that each fold trains its own, or give "
            "--allow_seen_cases"
        )


def describe_start(start: Start, config: Config, phases: Sequence[str]) -> Iterator[str]:
    """Yield lines about what a training takes of a checkpoint, and what starts anew."""
    own, path = start.payload.preprocessing.masks, config.model.init_checkpoint
    mask = name_masks(config.model.mask, config.windows.window_image)
    num_rows = start.map.num_matched
    if "none" in (mask, own):
        fusion = ""
    elif mask == own:
        fusion = ", fusion"
    else:
        fusion = f", no fusion (masks {own} there, {mask} here)"
    yield (
        f"{FLAG} {path}: encoder{fusion}, classifier with the rows of {num_rows} of {len(phases)} "
        "phases"
    )
    if anew := start.new_phases(phases):
        yield f"{FLAG}: rows that start anew: {_list_names(anew)}"
    if unknown := start.map.unknown:
        yield (
            f"--phase_map: no phase of the checkpoint or of the data, and left out: "
            f"{_list_names(unknown)}"
        )
    if not start.payload.seen_case_hashes:
        yield f"{FLAG}: it is too old to tell its training cases; nothing is checked against them"
    elif start.payload.seen_video_hashes is None:
        yield f"{FLAG}: it is too old to tell its training videos; cases are compared by id alone"


def find_leaks(payload: CheckpointPayload, data: RunData, config: Config) -> list[str]:
    """Return the held-out cases on which a checkpoint, or its origin, was trained, sorted.

    Cases are known by their pseudonyms, and by the content of their videos under any name. With
    ``--cross_fit`` training cases are held out, too.
    """
    splits = ("val",) if config.temporal.cross_fit is None else FITTED_SPLITS
    rows = data.segments.of_splits(splits)
    return find_trained_cases(rows, payload)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
