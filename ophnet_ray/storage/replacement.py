"""Files that an output may replace: those of its own kind, never another file of the user."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import is_same_place


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file, as its content tells.

    Attributes:
        name: For messages.
        first_bytes: First bytes of every file of the kind.
        member: Of zip archives, the end of the name of a file that each holds; else empty.
    """

    name: str
    first_bytes: bytes
    member: str = ""

    def includes(self, file: Path) -> bool:
        """Return True for a file of the kind.

        Raises:
            OSError: It cannot be read.
        """
        with file.open("rb") as stream:
            if stream.read(len(self.first_bytes)) != self.first_bytes:
                return False
        if not self.member:
            return True
        try:
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith(self.member) for name in archive.namelist())
        except zipfile.BadZipFile:
            return False


PYTORCH_FILE = FileKind("checkpoint", b"PK\x03\x04", "/data.pkl")
ONNX_FILE = FileKind("ONNX file", b"\x08")
"""Its first byte is the number of a field."""


def check_kind(flag: str, file: Path, kind: FileKind) -> None:
    """Make sure that a file to write is absent, empty, or of the kind that will be written.

    Args:
        flag: Flag that names it.
        file: File of this machine.
        kind: The kind.

    Raises:
        UserError: Another file is there, e.g. a table of annotations, or it cannot be read.
    """
    try:
        is_replaced = not file.is_file() or not file.stat().st_size or kind.includes(file)
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be read: {error.strerror}") from error
    if not is_replaced:
        raise UserError(
            f"{flag}: {file} exists and is no {kind.name}, so it is not replaced; give another path"
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
