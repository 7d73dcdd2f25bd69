"""Payload of an ensemble: what its members have seen together, and how its output is smoothed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import (
    Ensemble,
    hash_ensemble,
    is_ensemble,
    read_ensemble,
    read_models,
    write_ensemble,
)
from ophnet_ray.inference.split_choice import find_seen_cases
from ophnet_ray.models.checkpoint_file import read_payload, write_choices
from ophnet_ray.models.checkpoints import check_replaceable
from ophnet_ray.models.payload import CheckpointPayload, SmoothingChoice
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.models.training_summary import TrainingSummary
from ophnet_ray.storage.paths import is_remote, plain_uri


def read_model_payload(path: str) -> CheckpointPayload:
    """Read the payload of a checkpoint, or make that of an ensemble.

    Raises:
        UserError: See ``read_ensemble`` and ``read_payload``.
    """
    return read_model(path)[0]


def read_model(path: str) -> tuple[CheckpointPayload, tuple[str, ...]]:
    """Read a payload as ``read_model_payload`` does.

    Returns:
        The payload; pseudonyms of the cases that chose the members of an ensemble.

    Raises:
        UserError: See ``read_ensemble`` and ``read_payload``.
    """
    if not is_ensemble(path):
        return read_payload(path), ()
    ensemble = read_ensemble(path)
    return describe_ensemble(ensemble), ensemble.case_hashes


def describe_ensemble(ensemble: Ensemble) -> CheckpointPayload:
    """Make the payload of an ensemble from those of its members.

    Seen are all cases and videos that a member has seen; held out are those that all members held
    out. Order and durations of the phases are those of the member with the largest share. Settings
    are those in which the members agree. There is no history, and no count of windows.
    """
    payloads = [read_payload(member.file) for member in ensemble.members]
    first, heads = payloads[0], [payload.head for payload in payloads]
    return replace(
        first,
        training=_summarise(payloads, ensemble.shares),
        config=_keep_equal([payload.config for payload in payloads]),
        history=(),
        window_counts=None,
        segment_counts=None,
        duration_counts=None,
        workers=(),
        smoothing=ensemble.smoothing,
        temperature_choice=ensemble.temperature,
        head=heads[0] if all(heads) else None,
        origin=None,
    )


def _summarise(payloads: Sequence[CheckpointPayload], shares: Sequence[float]) -> TrainingSummary:
    seen = frozenset[str]().union(*(payload.seen_case_hashes for payload in payloads))
    held_out = frozenset(payloads[0].training.val_case_hashes).intersection(
        *(payload.training.val_case_hashes for payload in payloads)
    )
    known = [payload.seen_video_hashes for payload in payloads]
    videos = None
    if None not in known:
        videos = tuple(sorted({video for each in known if each is not None for video in each}))
    order = sorted(range(len(payloads)), key=lambda number: -shares[number])
    dynamics = (payloads[number].training.dynamics for number in order)
    counts = [payload.training.cases_by_phase for payload in payloads]
    return TrainingSummary(
        case_hashes=tuple(sorted(seen)),
        cases_by_phase=tuple(map(max, zip(*counts, strict=True))),
        val_case_hashes=tuple(sorted(held_out - seen)),
        dynamics=next((each for each in dynamics if each is not None), None),
        video_hashes=videos,
    )


def _keep_equal(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: value
        for name, value in configs[0].items()
        if all(name in config and config[name] == value for config in configs)
    }


def check_held_out(
    path: str, payload: CheckpointPayload, split: str, segments: Sequence[Segment]
) -> None:
    """Make sure that the members of an ensemble held out some cases together, if those are scored.

    Of the members of k folds each has seen what the others hold out, also of the validation rows
    of a table, which folds do not follow.

    Args:
        path: Of the checkpoint or ensemble.
        payload: Its payload.
        split: Split to score.
        segments: All rows of the table.

    Raises:
        UserError: There is no such case.
    """
    if not is_ensemble(path) or split != "val":
        return
    own = [row for row in segments if row.split == "val"]
    rows = own or [row for row in segments if row.split != "test"]
    seen = find_seen_cases(rows, payload)
    shares_none = not own and not payload.training.val_case_hashes
    if seen and (shares_none or len(seen) == len({row.case_id for row in rows})):
        raise UserError(
            f"--split val: each case was in the training of a member of {path}, so that scores "
            "would say nothing about new cases; score cases of another table, or give --split test"
        )


def check_keepable(path: str, given: str) -> None:
    """Make sure that a choice can be written into a checkpoint, or into the file of an ensemble.

    What is fetched from a bucket is a copy that others do not see: a choice in it would be lost.

    Args:
        path: File of this machine.
        given: Path or URI that the user gave for it.

    Raises:
        UserError: It is damaged, cannot be written, or was given by its place in a bucket.
    """
    if is_remote(given):
        raise UserError(
            f"{plain_uri(given)} lies in a bucket; to keep a choice, give a copy on this machine, "
            "or the local folder of the run, from which the choice is sent to its bucket"
        )
    check_replaceable(Path(path))


def keep_choices(
    path: str,
    smoothing: SmoothingChoice | None = None,
    temperature: TemperatureChoice | None = None,
) -> None:
    """Write the choices that are given into a checkpoint, or into the file of an ensemble.

    Raises:
        UserError: See ``read_ensemble`` and ``write_choices``.
    """
    if not is_ensemble(path):
        write_choices(path, smoothing=smoothing, temperature=temperature)
        return
    ensemble = read_ensemble(path)
    kept = replace(
        ensemble,
        smoothing=smoothing or ensemble.smoothing,
        temperature=temperature or ensemble.temperature,
    )
    write_ensemble(Path(path), kept)


def hash_model(path: str) -> str:
    """Return the hash of the weights of a checkpoint; of an ensemble, those of all members.

    It stays what it was when a choice is written into the file.

    Raises:
        UserError: See ``read_models``.
    """
    return hash_ensemble(read_models(path))
