"""File of a checkpoint: weights and payload read, a choice of smoothing written into it."""

import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.models.checkpoints import describe_missing, replace_checkpoint_file
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    SMOOTHING_KEY,
    TEMPERATURE_KEY,
    CheckpointPayload,
    SmoothingChoice,
)
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.storage.files import copy_file
from ophnet_ray.storage.paths import is_remote

if TYPE_CHECKING:
    # loaded by the functions that open a file: commands refuse wrong flags before torch loads
    import torch

_ZIP_ERRORS = (
    ValueError, EOFError, OSError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip


def load_checkpoint(path: str | Path) -> "tuple[dict[str, torch.Tensor], CheckpointPayload]":
    """Load weights and payload on the CPU; nothing in the file is executed.

    Raises:
        UserError: The file is missing or damaged, or another program or a newer version wrote it.
    """
    content = _load_content(path)
    if "state_dict" not in content:
        raise UserError(f"checkpoint {path} is damaged: it holds no weights")
    return content["state_dict"], CheckpointPayload.from_dict(content[PAYLOAD_KEY], path)


def load_weights(
    module: "torch.nn.Module",
    saved: "Mapping[str, torch.Tensor]",
    prefix: str,
    path: str | Path,
    name: str,
) -> None:
    """Load those weights of a checkpoint into a module that begin with a prefix.

    Args:
        module: The module.
        saved: All weights, by name.
        prefix: Start of the names of the module's weights in the checkpoint.
        path: Of the checkpoint, for errors.
        name: Name of the module, for errors.

    Raises:
        UserError: They are not those of this module.
    """
    weights = {
        key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)
    }
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = one_line(error, max_chars=200)
        raise UserError(
            f"checkpoint {path}: its weights do not fit the {name} ({reason})"
        ) from error


def read_payload(path: str | Path) -> CheckpointPayload:
    """Read the payload of a checkpoint without its weights.

    Raises:
        UserError: See ``load_checkpoint``.
    """
    return CheckpointPayload.from_dict(_load_content(path, is_mapped=True)[PAYLOAD_KEY], path)


def has_finite_weights(path: str | Path) -> bool:
    """Return True if no weight or statistic of a checkpoint is infinite or not a number.

    Raises:
        UserError: See ``load_checkpoint``.
    """
    import torch

    weights = _load_content(path, is_mapped=True).get("state_dict", {})
    return all(bool(torch.isfinite(each).all()) for each in weights.values())


def hash_weights(path: str | Path) -> str:
    """Return the SHA-256 of the names and values of a checkpoint's weights, 64 digits.

    It stays what it was when a choice is written into the file.

    Raises:
        UserError: See ``load_checkpoint``.
    """
    import torch

    weights = _load_content(path, is_mapped=True).get("state_dict", {})
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_smoothing_choice(path: str | Path, choice: SmoothingChoice) -> None:
    """Write a choice of smoothing into a checkpoint; everything else in it stays as it is.

    Inside a run the manifest beside it gets the new checksum.

    Raises:
        UserError: See ``load_checkpoint``.
    """
    write_choices(path, smoothing=choice)


def write_choices(
    path: str | Path,
    *,
    smoothing: SmoothingChoice | None = None,
    temperature: TemperatureChoice | None = None,
) -> None:
    """Write the choices that are given into a checkpoint, as ``write_smoothing_choice`` does.

    Raises:
        UserError: See ``load_checkpoint``.
    """
    content = _load_content(path)
    if smoothing is not None:
        content[PAYLOAD_KEY][SMOOTHING_KEY] = smoothing.to_dict()
    if temperature is not None:
        content[PAYLOAD_KEY][TEMPERATURE_KEY] = temperature.to_dict()
    import torch

    replace_checkpoint_file(Path(path), lambda target: torch.save(content, target))


def copy_checkpoint(source: Path, target: str, on_notice: Callable[[str], None]) -> None:
    """Copy the checkpoint of a training to the place that the user has named.

    A smoothing and a temperature that ``evaluate`` wrote into the file there stay with the same
    model.

    Args:
        source: A checkpoint.
        target: Path or URI; it may hold a checkpoint, or another file.
        on_notice: Receives a line about a choice that is lost, because it is of another training.
    """
    before = None
    if not is_remote(target):
        with suppress(UserError):  # there is none, or another file, which holds no choice
            before = read_payload(target)
    copy_file(source, target)
    lost = _carry_choices(before, Path(target)) if before else ()
    if lost:
        on_notice(
            f"{target}: the checkpoint of another training was there, with "
            f"{' and '.join(lost)}; evaluate the new one"
        )


def _carry_choices(before: CheckpointPayload, target: Path) -> tuple[str, ...]:
    """Write the choices of a replaced checkpoint into its successor, if both are of one training.

    Returns:
        The choices that ``target`` lacks because they are of another training, in words.
    """
    after = read_payload(target)
    smoothing = before.smoothing if after.smoothing is None else None
    temperature = before.temperature_choice if after.temperature_choice is None else None
    if smoothing is None and temperature is None:
        return ()
    if (before.data_hash, before.history) == (after.data_hash, after.history):
        write_choices(target, smoothing=smoothing, temperature=temperature)
        return ()
    lost = []
    if smoothing is not None:
        lost.append(f"the smoothing {smoothing.smooth} that `evaluate --keep_choice` kept")
    if temperature is not None:
        kept = f"the temperature {temperature.temperature:.3g}"
        lost.append(f"{kept} that `evaluate --keep_temperature` kept")
    return tuple(lost)


def _check_content(path: str | Path, *, only_values: bool) -> None:
    """Compare a file with the checksums in it (CRC-32), which torch writes and does not read.

    Args:
        path: The file.
        only_values: Leave out the tensors, which are not read.

    Raises:
        UserError: The file is no checkpoint, or a bit of it has changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not only_values:
                damaged = archive.testzip()
            else:
                damaged = None
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        archive.read(name)  # raises if it is damaged
    # a changed header names other encodings, algorithms, positions and passwords
    except _ZIP_ERRORS as error:
        reason = one_line(error, max_chars=160)
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    if damaged is not None:
        raise UserError(
            f"checkpoint {path} is damaged ({damaged} has changed since it was written)"
        )


def _load_content(path: str | Path, *, is_mapped: bool = False) -> dict[str, Any]:
    if not Path(path).is_file():
        raise UserError(describe_missing(path))
    import torch

    _check_content(path, only_values=is_mapped)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:
        reason = one_line(error, max_chars=160)
        raise UserError(f"checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(content, dict) or PAYLOAD_KEY not in content:
        raise UserError(f"checkpoint {path} was not written by ophnet-ray")
    return content
