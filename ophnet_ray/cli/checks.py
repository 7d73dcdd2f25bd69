"""Checks of the flags that several sub-commands share, before anything heavy is loaded."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ophnet_ray.config import CaseFrom
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import describe_missing
from ophnet_ray.storage.access import check_no_folder, ensure_writable
from ophnet_ray.storage.paths import is_remote
from ophnet_ray.temporal_config import MAX_FRAME_RATE
from ophnet_ray.train.run_paths import RunPaths


def check_checkpoint(path: str) -> None:
    """Make sure that ``--checkpoint`` is a file of PyTorch; its content is checked when loaded.

    Raises:
        UserError: The file is missing, or is no file that torch writes.
    """
    if Path(path).is_dir():
        found = sorted(Path(path).glob("**/*.ckpt"))
        shown = f"give a file in it, e.g. {found[-1]}" if found else "no checkpoint is in it"
        raise UserError(f"checkpoint {path} is a folder; {shown}")
    if not Path(path).is_file():
        raise UserError(describe_missing(path))
    if path.endswith((".yaml", ".yml")):
        raise UserError(f"checkpoint {path}: this command takes one model; give a member of it")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"checkpoint {path} cannot be read (it is no PyTorch file, or its end is missing)"
        )


def check_frame_rate(frame_rate: float) -> None:
    """Make sure that ``--frame_rate`` is usable.

    Raises:
        UserError: It is not.
    """
    if not 0 < frame_rate <= MAX_FRAME_RATE:
        raise UserError(
            f"--frame_rate {frame_rate:g}: must be more than 0, at most {MAX_FRAME_RATE}"
        )


def check_look_ahead(look_ahead_s: float, causal: bool) -> None:
    """Make sure that ``--look_ahead_s`` is usable.

    Raises:
        UserError: It is not, or every label may use the whole video anyway.
    """
    if not 0 <= look_ahead_s < math.inf:
        raise UserError(f"--look_ahead_s {look_ahead_s:g}: must be a number of seconds from 0 on")
    if look_ahead_s and not causal:
        raise UserError(
            f"--look_ahead_s {look_ahead_s:g}: needs --causal, or --predictions that were made "
            "with it; without it smoothing uses the whole video"
        )


def check_at_least_1(flag: str, value: int) -> None:
    """Make sure that a count is positive.

    Raises:
        UserError: It is not.
    """
    if value < 1:
        raise UserError(f"{flag} {value}: must be at least 1")


def check_choice(command: str, flags: Mapping[str, bool], *, takes_all: bool = False) -> None:
    """Make sure that one of several flags is given.

    Args:
        command: Name of the sub-command.
        flags: The flags as messages show them; True for those that are given.
        takes_all: Several may be given.

    Raises:
        UserError: None is given, or more than the command takes.
    """
    num_given, names = sum(flags.values()), " or ".join(flags)
    if not num_given:
        raise UserError(f"{command}: give {names}")
    if num_given > 1 and not takes_all:
        raise UserError(f"{command}: give {names}, not both")


def check_no_run(path: str, flag: str = "--output") -> None:
    """Make sure that ``--output`` is not the folder of a run, whose files would be replaced.

    Raises:
        UserError: It is.
    """
    if RunPaths(Path(path)).passport.is_file():
        raise UserError(f"{flag} {path} is the folder of a run; choose another one, e.g. below it")


def create_output_folder(path: str, *names: str, flag: str = "--output") -> Path:
    """Create the folder of ``--output``, if it is missing, and return its absolute path.

    Args:
        path: The folder.
        names: Names of the files that will be written.
        flag: Name of the flag, for messages.

    Raises:
        UserError: It is the folder of a run, cannot be created, or a file cannot be written.
    """
    if is_remote(path):
        raise UserError(f"{flag} {path}: must be a folder of this machine, not a bucket")
    check_no_run(path, flag)
    folder = Path(path).absolute()
    try:
        ensure_writable(folder)
    except OSError as error:
        raise UserError(f"{flag} {folder} cannot be written: {error.strerror}") from error
    check_no_folder(flag, *(folder / name for name in names))
    return folder


def trained_case_from(checkpoint: str) -> CaseFrom:
    """Return the source of the cases that a checkpoint, or an ensemble, was trained with.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    # loads torch
    from ophnet_ray.inference.ensemble_payload import read_model_payload

    return read_model_payload(checkpoint).settings.data.case_from
