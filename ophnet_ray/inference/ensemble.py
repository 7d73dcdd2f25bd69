"""Ensembles of checkpoints and their file, ``ensemble.yaml``: members, weights, what chose them.

The file names each member by a path, relative to the file where both have a folder in common, and
by the SHA-256 of its checkpoint. So a folder with an ensemble and its members can be moved, and a
member that was trained again is noticed.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.inference.same_names import check_same_phases
from ophnet_ray.models.checkpoint_file import hash_weights, read_payload
from ophnet_ray.models.checkpoints import describe_missing
from ophnet_ray.models.payload import CheckpointPayload, SmoothingChoice
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import (
    absolute,
    check_text,
    is_remote,
    join,
    name_of,
    parent_of,
    plain_uri,
)
from ophnet_ray.storage.records import DamagedFileError, dump_yaml_record, read_yaml_record

ENSEMBLE_FILE = "ensemble.yaml"
FORMAT_VERSION = 1
_CURE = "write it again with `python -m ophnet_ray ensemble`"
_EDITED = f"put it back, delete its first line if you have edited it, or {_CURE}"


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """A checkpoint of an ensemble.

    ``checkpoint``: absolute path, or URI; ``sha256``: of the file; ``weight``: above 0, relative
    to those of the others; ``file``: the checkpoint on this machine.
    """

    checkpoint: str
    sha256: str
    weight: float
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Checkpoints of one vocabulary whose probabilities are averaged; a single one is one of them.

    Attributes:
        members: At least one, each once.
        phases: Id or name of each label's phase.
        case_hashes: Pseudonyms (``hashing.hash_case``) of the cases that chose members and weights:
            scores on them say too much. Empty if no case did.
        smoothing: The choice of ``evaluate --keep_choice`` for the ensemble.
        temperature: That of ``evaluate --keep_temperature``, of the mean; those of the members are
            not used.
    """

    members: tuple[EnsembleMember, ...]
    phases: tuple[str, ...]
    case_hashes: tuple[str, ...] = ()
    smoothing: SmoothingChoice | None = None
    temperature: TemperatureChoice | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """Weight of each member in the mean; they add up to 1."""
        total = math.fsum(member.weight for member in self.members)
        return tuple(member.weight / total for member in self.members)

    @property
    def sha256(self) -> str:
        """Identity of the predictions: the hash of a single member, else of all and their shares.

        The order of the members does not matter.
        """
        if len(self.members) == 1:
            return self.members[0].sha256
        pairs = zip((member.sha256 for member in self.members), self.shares, strict=True)
        return hashlib.sha256(json.dumps(sorted(pairs)).encode()).hexdigest()


def hash_ensemble(ensemble: Ensemble) -> str:
    """Return the hash of the weights of a single member; of several, those of all and their shares.

    It stays what it was when a choice is written into a file.

    Raises:
        UserError: See ``hash_weights``.
    """
    hashes = [hash_weights(member.file) for member in ensemble.members]
    if len(hashes) == 1:
        return hashes[0]
    pairs = sorted(zip(hashes, ensemble.shares, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def build_ensemble(
    checkpoints: Sequence[str | Path],
    weights: Sequence[float] | None = None,
    case_hashes: Sequence[str] = (),
) -> Ensemble:
    """Build an ensemble of checkpoint files.

    Args:
        checkpoints: Paths or URIs of files.
        weights: Of each member; None: equal ones.
        case_hashes: Pseudonyms of the cases that chose the members.

    Raises:
        UserError: A file is missing or no checkpoint, is given twice, or does not fit the others.
    """
    members = []
    for path, weight in zip(checkpoints, weights or [1.0] * len(checkpoints), strict=True):
        file = _fetch(str(path))
        if not file.is_file():
            raise UserError(describe_missing(path))
        members.append(EnsembleMember(absolute(path), hash_file(file), weight, file))
    phases = _check_members(members, "--checkpoint")
    return Ensemble(
        members=tuple(members), phases=phases, case_hashes=tuple(sorted(set(case_hashes)))
    )


def gather_members(paths: Sequence[str]) -> Ensemble:
    """Build an ensemble with equal weights; a path may be one itself, whose members share its own.

    Raises:
        UserError: See ``build_ensemble`` and ``read_ensemble``.
    """
    models = [read_models(path) for path in paths]
    members = [
        replace(member, weight=share)
        for model in models
        for member, share in zip(model.members, model.shares, strict=True)
    ]
    chosen = {case for model in models for case in model.case_hashes}
    return Ensemble(
        members=tuple(members),
        phases=_check_members(members, "--checkpoint"),
        case_hashes=tuple(sorted(chosen)),
    )


def write_ensemble(path: Path, ensemble: Ensemble, location: str | None = None) -> None:
    """Write ``ensemble.yaml`` with a checksum, whole or not at all.

    Args:
        path: The file on this machine.
        ensemble: Its content.
        location: URI of the folder in a bucket whose copy holds the file.
    """
    folder = location or str(path.absolute().parent)
    values: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "phases": list(ensemble.phases),
        "members": [
            {
                "checkpoint": _relate(member.checkpoint, folder),
                "sha256": member.sha256,
                "weight": member.weight,
            }
            for member in ensemble.members
        ],
        "chosen_by_cases": list(ensemble.case_hashes),
    }
    if ensemble.smoothing is not None:
        values["smoothing"] = ensemble.smoothing.to_dict()
    if ensemble.temperature is not None:
        values["temperature"] = ensemble.temperature.to_dict()
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_atomically(path, dump_yaml_record(text))


def read_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble, on disk or in a bucket, and make sure that its members are the same files.

    Raises:
        UserError: The file is missing, damaged or of a newer version, or a member is missing, was
            changed, or does not fit the others; with the cure.
    """
    place = absolute(path)
    file = _fetch(place)
    try:
        values = read_yaml_record(file, _EDITED)
    except OSError as error:
        raise UserError(f"ensemble {path} cannot be read: {error.strerror}") from error
    try:
        if values["format_version"] > FORMAT_VERSION:
            raise UserError(f"ensemble {path} is of a newer ophnet-ray; install that one")
        members = [_read_member(place, each) for each in values["members"]]
        smoothing, temperature = values.get("smoothing"), values.get("temperature")
        ensemble = Ensemble(
            members=tuple(members),
            phases=tuple(map(str, values["phases"])),
            case_hashes=tuple(map(str, values["chosen_by_cases"])),
            smoothing=smoothing and SmoothingChoice.from_dict(smoothing),
            temperature=temperature and TemperatureChoice.from_dict(temperature),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedFileError(f"{path} is damaged ({reason[:120]}); {_CURE}") from error
    phases = _check_members(ensemble.members, f"ensemble {path}:")
    check_same_phases(f"ensemble {path}", ensemble.phases, "its members", phases)
    return ensemble


def is_ensemble(path: str) -> bool:
    """Return True for the path of an ensemble's file, False for that of a checkpoint."""
    return name_of(path).endswith((".yaml", ".yml"))


def read_models(path: str) -> Ensemble:
    """Read an ensemble, or take a checkpoint as one of a single member.

    Raises:
        UserError: See ``read_ensemble`` and ``build_ensemble``.
    """
    return read_ensemble(path) if is_ensemble(path) else build_ensemble([path])


def _read_member(place: str, values: Mapping[str, Any]) -> EnsembleMember:
    name, sha256, weight = str(values["checkpoint"]), values["sha256"], float(values["weight"])
    check_text(f"{place}: member", name)
    if not 0 < weight < math.inf:
        raise ValueError(f"weight {weight} of {name}")
    checkpoint = join(parent_of(place), name)
    if not is_remote(checkpoint):
        checkpoint = os.path.normpath(checkpoint)
    where = f"ensemble {plain_uri(place)}: its member {name}"
    file = _fetch(checkpoint)
    if not file.is_file():
        raise UserError(f"{where} does not exist; put it back, or {_CURE}")
    if hash_file(file) != sha256:
        raise UserError(
            f"{where} has another SHA-256: it was trained again, or changed by `--keep_choice`; "
            f"put the former file back, or {_CURE}"
        )
    return EnsembleMember(checkpoint, sha256, weight, file)


def _check_members(members: Sequence[EnsembleMember], where: str) -> tuple[str, ...]:
    """Make sure that the members fit together; return their phases.

    Raises:
        UserError: They do not; with the cure.
    """
    if not members:
        raise UserError(f"{where} names no checkpoint")
    seen: dict[str, str] = {}
    for member in members:
        if earlier := seen.get(member.sha256):
            raise UserError(
                f"{where} {earlier} and {member.checkpoint} are the same model; leave one out"
            )
        seen[member.sha256] = member.checkpoint
    payloads = [read_payload(member.file) for member in members]
    for member, payload in zip(members, payloads, strict=True):
        check_same_phases(
            members[0].checkpoint, payloads[0].phases, member.checkpoint, payload.phases
        )
    _check_frame_rates(members, payloads)
    return payloads[0].phases


def _check_frame_rates(
    members: Sequence[EnsembleMember], payloads: Sequence[CheckpointPayload]
) -> None:
    """Make sure that all temporal models predict at one rate; frame models do at any."""
    rates = {
        member.checkpoint: payload.head.spec.frame_rate
        for member, payload in zip(members, payloads, strict=True)
        if payload.head is not None
    }
    if len(set(rates.values())) > 1:
        named = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        raise UserError(
            f"the temporal models were trained on other numbers of frames per second ({named}); "
            "leave those of one rate"
        )


def _relate(checkpoint: str, folder: str) -> str:
    """Return the path of a checkpoint from a folder; as it is where they share no folder.

    In a bucket, only a checkpoint in the folder itself has a path from there.
    """
    if is_remote(checkpoint):
        name = name_of(checkpoint)
        return name if join(folder, name) == checkpoint else checkpoint
    if is_remote(folder) or os.path.commonpath([checkpoint, folder]) == os.sep:
        return checkpoint
    return Path(os.path.relpath(checkpoint, folder)).as_posix()


def _fetch(path: str) -> Path:
    """Return a file of this machine; that of a bucket is fetched.

    Raises:
        UserError: It is not in the bucket, or the bucket does not answer.
    """
    if not is_remote(path):
        return Path(absolute(path))
    try:
        return fetch_version(path)
    except OSError as error:
        raise UserError(str(error)) from error
