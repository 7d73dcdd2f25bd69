"""Payload of an ensemble: what its members have seen together, and how its output is smoothed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ophnet_ray.inference.ensemble import Ensemble, is_ensemble, read_ensemble
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.models.training_summary import TrainingSummary


def read_model_payload(path: str) -> CheckpointPayload:
    """Read the payload of a checkpoint, or make that of an ensemble.

    Raises:
        UserError: See ``read_ensemble`` and ``read_payload``.
    """
    return describe_ensemble(read_ensemble(path)) if is_ensemble(path) else read_payload(path)


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
        confusion_by_case=None,
        segments_by_case=None,
        workers=(),
        smoothing=ensemble.smoothing,
        temperature_choice=None,
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
