"""Files in buckets: read, write, list, delete, whole files each.

An object appears whole or not at all: a killed writer leaves nothing that a listing shows.
"""

import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from ophnet_ray.errors import UserError
from ophnet_ray.storage.atomic import open_atomically
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.paths import (
    bucket_path,
    is_remote,
    join,
    name_of,
    parent_of,
)

COPY_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What tells that a file is still the same."""

    size_bytes: int
    mtime_ns: int


def check_readable(flag: str, uri: str) -> None:
    """Find out within seconds whether a place in a bucket answers.

    Raises:
        UserError: No such bucket, no permission, or no answer.
    """
    try:
        with in_one_line(uri):
            # a place that is not there yet is fine; asked like this, a missing bucket is told
            place = fs.FileSelector(bucket_path(uri))
            filesystem_of(uri, is_probe=True).get_file_info(place)
    except FileNotFoundError:
        return
    except OSError as error:
        if "No such file" in str(error):
            return  # Google's has no type of its own
        raise UserError(f"{flag} {error}") from error


def check_writable(flag: str, folder: str) -> None:
    """Find out within seconds whether a folder of a bucket can be written.

    Raises:
        UserError: It cannot.
    """
    uri = join(folder, f".probe.{secrets.token_hex(4)}")  # several runs may ask at once
    try:
        with in_one_line(folder):
            system = filesystem_of(folder, is_probe=True)
            with system.open_output_stream(bucket_path(uri)) as file:
                file.write(b"probe")
            system.delete_file(bucket_path(uri))
    except OSError as error:
        raise UserError(f"{flag} {error}") from error


def ensure_writable(folder: Path) -> None:
    """Create a folder of this machine if it is missing, and a file in it for a moment.

    Raises:
        OSError: The folder cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def list_files(folder: str, *, recursive: bool = False) -> dict[str, FileStatus]:
    """The files in a folder of a bucket, by name, or by path below it; none when it is not there.

    Raises:
        StorageError: The bucket does not answer.
    """
    root = bucket_path(folder)
    with in_one_line(folder):
        place = fs.FileSelector(root, recursive=recursive, allow_not_found=True)
        found = filesystem_of(folder).get_file_info(place)
    return {
        info.path.removeprefix(f"{root}/"): FileStatus(info.size, info.mtime_ns or 0)
        for info in found
        if info.type == fs.FileType.File
    }


def list_names(folder: str) -> list[str]:
    """Names of what lies in a folder, of a bucket or not; none when it is not there."""
    if is_remote(folder):
        return list(list_files(folder))
    return [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []


def stat_files(paths: Iterable[str]) -> dict[str, FileStatus]:
    """Those of the files that are there; of a bucket's folder one listing, not a request a file."""
    found: dict[str, FileStatus] = {}
    remote: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if is_remote(path):
            remote[parent_of(path)].append(path)
        elif Path(path).is_file():
            status = Path(path).stat()
            found[path] = FileStatus(status.st_size, status.st_mtime_ns)
    for folder, members in remote.items():
        there = list_files(folder)
        found |= {path: there[name_of(path)] for path in members if name_of(path) in there}
    return found


def read_bytes(path: str) -> bytes:
    """The content of a file, of a bucket or not.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    with in_one_line(path), filesystem_of(path).open_input_file(bucket_path(path)) as file:
        return bytes(file.read())


def write_bytes(uri: str, data: bytes | pa.Buffer) -> None:
    """Put a file into a bucket, whole or not at all.

    Raises:
        StorageError: After ``ATTEMPTS``.
    """
    with in_one_line(uri), filesystem_of(uri).open_output_stream(bucket_path(uri)) as file:
        file.write(data)


def upload(source: Path, uri: str) -> None:
    """Put a local file into a bucket, whole or not at all.

    Raises:
        StorageError: After ``ATTEMPTS``.
    """
    if not source.stat().st_size:
        write_bytes(uri, b"")
        return
    # in one write: a stream that is left early would keep the half that it has
    with pa.memory_map(str(source)) as file:
        write_bytes(uri, file.read_buffer())


def download(uri: str, target: Path) -> None:
    """Fetch a file of a bucket; the target is there whole or not at all.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_atomically(target.parent, lambda: target.name) as copy,
        in_one_line(uri),
        filesystem_of(uri).open_input_stream(bucket_path(uri)) as file,
    ):
        shutil.copyfileobj(file, copy, COPY_BYTES)


def delete_file(uri: str) -> None:
    """Delete a file of a bucket; one that is gone already is no error.

    Raises:
        StorageError: The bucket does not answer, or does not allow it.
    """
    with in_one_line(uri):
        try:
            filesystem_of(uri).delete_file(bucket_path(uri))
        except FileNotFoundError:
            return
