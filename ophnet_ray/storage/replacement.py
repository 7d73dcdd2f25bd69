"""Files that an output may replace: those of its own kind, never another file of the user."""

from collections.abc import Sequence
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import is_same_place

PYTORCH_FILE, ONNX_FILE = b"PK\x03\x04", b"\x08"
"""First bytes of the files of PyTorch (zip archives), and of ONNX (a field number)."""


def check_kind(flag: str, file: Path, first_bytes: bytes, kind: str) -> None:
    """Make sure that a file to write is absent, empty, or of the kind that will be written.

    Args:
        flag: Flag that names it.
        file: File of this machine.
        first_bytes: First bytes of every file of the kind.
        kind: Name of the kind, for the message.

    Raises:
        UserError: Another file is there, e.g. a table of annotations, or it cannot be read.
    """
    if not file.is_file():
        return
    try:
        with file.open("rb") as stream:
            found = stream.read(len(first_bytes))
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be read: {error.strerror}") from error
    if found and found != first_bytes:
        raise UserError(
            f"{flag}: {file} exists and is no {kind}, so it is not replaced; give another path"
        )


def check_inputs_stay(flag: str, file: str, inputs: dict[str, str | None]) -> None:
    """Make sure that an output is none of the files that the command reads.

    Args:
        flag: Flag of the output.
        file: Path or URI of the output.
        inputs: Paths or URIs that are read, by their flags; None where a flag is not given.

    Raises:
        UserError: It is one of them.
    """
    for input_flag, path in inputs.items():
        if is_same_place(file, path):
            raise UserError(f"{flag} {file}: it would replace the {input_flag}; give another path")


def check_no_stranger(flag: str, files: Sequence[Path], marker: Path) -> None:
    """Make sure that files of a folder are those of an earlier call, which left a marker.

    Args:
        flag: Flag that names the folder.
        files: Files that will be written, whose content does not tell who wrote them.
        marker: File that the command writes with them.

    Raises:
        UserError: One of them is there, and the marker is not.
    """
    if marker.is_file():
        return
    for file in files:
        if file.exists():
            raise UserError(
                f"{flag}: {file} was not written by this command (there is no {marker.name} "
                "beside it), so it is not replaced; choose another folder"
            )
