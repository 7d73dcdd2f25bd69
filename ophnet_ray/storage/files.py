"""Whole files, on disk and in buckets: write atomically, read, list, copy, delete.

A file appears whole or not at all: a killed writer leaves nothing under the file's name.
"""

import errno
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs

from ophnet_ray.errors import UserError
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.paths import (
    bucket_path,
    is_remote,
    name_of,
    parent_of,
)
from ophnet_ray.storage.unfinished import unfinished_name

COPY_BYTES = 8_000_000
STAT_THREADS = 16
MIN_LISTED = 32
"""Files of a folder from which it is listed to stat them."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Size and time of a file: equal values mean an unchanged file."""

    size_bytes: int
    mtime_ns: int


@contextmanager
def open_atomically(folder: Path, name: Callable[[], str]) -> Iterator[BinaryIO]:
    """Open a new file that gets its name once everything is on disk.

    Until then it has a name of ``unfinished``; a killed writer leaves it under that name.

    Args:
        folder: Folder of this machine; it exists.
        name: Called after the last write: the name may depend on the content.

    Raises:
        OSError: The file cannot be written; of a full disk, the message names folder and bytes.
    """
    # not tempfile, whose files nobody else may read: the user's umask decides
    temporary = folder / unfinished_name()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name())
        sync_folder(folder)
    except OSError as error:
        if not is_full(error):
            raise
        raise OSError(error.errno, describe_full(error, folder), str(folder)) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Return True for the error of a disk, or a quota, that is full."""
    return error.errno in _FULL


def describe_full(error: OSError, folder: str | Path) -> str:
    """Return the cause of such an error, with the bytes that are free in a folder."""
    return f"{error.strerror} ({shutil.disk_usage(folder).free:,} bytes are free)"


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk: a loss of power then undoes no rename before it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file of this machine; a killed writer leaves the old file, or none."""
    with open_atomically(path.parent, lambda: path.name) as file:
        file.write(data)


def write_object(uri: str, data: bytes | pa.Buffer, *, is_probe: bool = False) -> None:
    """Write an object of a bucket; a probe gives up after seconds, see ``filesystem_of``.

    Raises:
        StorageError: The bucket does not take it after all attempts.
    """
    system = filesystem_of(uri, is_probe=is_probe)
    with in_one_line(uri), system.open_output_stream(bucket_path(uri)) as file:
        file.write(data)


def read_bytes(path: str) -> bytes:
    """Read a file, on disk or in a bucket.

    Raises:
        FileNotFoundError: It does not exist.
        OSError: It cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    with in_one_line(path), filesystem_of(path).open_input_file(bucket_path(path)) as file:
        return bytes(file.read())


def read_range(uri: str, offset: int, size_bytes: int) -> bytes:
    """Read bytes of an object of a bucket; fewer where it ends.

    Raises:
        FileNotFoundError: The object does not exist.
        StorageError: The bucket does not answer.
    """
    with in_one_line(uri), filesystem_of(uri).open_input_file(bucket_path(uri)) as file:
        return bytes(file.read_at(size_bytes, offset))


def upload(source: Path, uri: str) -> None:
    """Copy a file of this machine into a bucket.

    Raises:
        StorageError: The bucket does not take it after ``ATTEMPTS``.
    """
    if not source.stat().st_size:
        write_object(uri, b"")
        return
    # in one write: a stream that is left early would keep the half that it has
    with pa.memory_map(str(source)) as file:
        write_object(uri, file.read_buffer())


def download(uri: str, target: Path) -> None:
    """Copy an object of a bucket to this machine, atomically.

    Raises:
        FileNotFoundError: The object does not exist.
        OSError: It cannot be read, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_atomically(target.parent, lambda: target.name) as copy,
        in_one_line(uri),
        filesystem_of(uri).open_input_stream(bucket_path(uri)) as file,
    ):
        shutil.copyfileobj(file, copy, COPY_BYTES)


def copy_file(source: Path, target: str | Path) -> None:
    """Copy a file of this machine to a local path or into a bucket, atomically.

    Raises:
        OSError: The target cannot be written.
    """
    if is_remote(target):
        upload(source, str(target))
        return
    path = Path(target)
    with open_atomically(path.parent, lambda: path.name) as copy, source.open("rb") as file:
        shutil.copyfileobj(file, copy)


def delete_object(uri: str) -> None:
    """Delete an object of a bucket; one that is gone already is no error.

    Raises:
        StorageError: The bucket does not answer, or does not allow it.
    """
    with in_one_line(uri):
        try:
            filesystem_of(uri).delete_file(bucket_path(uri))
        except FileNotFoundError:
            return


def list_objects(
    folder: str, *, recursive: bool = False, is_probe: bool = False
) -> dict[str, FileStatus]:
    """List the objects in a folder of a bucket; a folder that does not exist is empty.

    Args:
        folder: URI.
        recursive: List the folders in it, too.
        is_probe: Give up after seconds, see ``filesystem_of``.

    Returns:
        Status by name; with ``recursive``, by path below the folder.

    Raises:
        StorageError: The bucket does not answer.
    """
    root = bucket_path(folder)
    with in_one_line(folder):
        selector = fs.FileSelector(root, recursive=recursive, allow_not_found=True)
        found = filesystem_of(folder, is_probe=is_probe).get_file_info(selector)
    return {
        info.path.removeprefix(f"{root}/"): FileStatus(info.size, info.mtime_ns or 0)
        for info in found
        if info.type == fs.FileType.File
    }


def stat_objects(folder: str, names: Sequence[str]) -> dict[str, FileStatus]:
    """Stat objects in a folder of a bucket, one request each; those that do not exist are left out.

    The requests are simultaneous: Arrow sends those of one call one after the other.

    Raises:
        StorageError: The bucket does not answer.
    """
    root, system = bucket_path(folder), filesystem_of(folder)
    with in_one_line(folder), ThreadPoolExecutor(STAT_THREADS) as pool:
        found = list(pool.map(system.get_file_info, (f"{root}/{name}" for name in names)))
    return {
        name: FileStatus(info.size, info.mtime_ns or 0)
        for name, info in zip(names, found, strict=True)
        if info.type == fs.FileType.File
    }


def list_names(folder: str) -> list[str]:
    """List the names in a folder, on disk or in a bucket; one that does not exist is empty.

    Raises:
        UserError: The folder may not be read.
    """
    if is_remote(folder):
        return list(list_objects(folder))
    status = _stat(folder)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return []
    try:
        return [path.name for path in Path(folder).iterdir()]
    except PermissionError as error:
        raise UserError(f"{folder} cannot be read: permission denied") from error


def list_folders(folder: str) -> list[str]:
    """List the names of the folders in a folder; one that does not exist is empty.

    Raises:
        OSError: The folder may not be read, or the bucket does not answer.
    """
    if not is_remote(folder):
        path = Path(folder)
        return [each.name for each in path.iterdir() if each.is_dir()] if path.is_dir() else []
    if folder.startswith("gs://"):
        # pyarrow's listing of Google's buckets may leave out folders that no object marks
        paths = list_objects(folder, recursive=True)
        return sorted({path.partition("/")[0] for path in paths if "/" in path})
    with in_one_line(folder):
        selector = fs.FileSelector(bucket_path(folder), allow_not_found=True)
        found = filesystem_of(folder).get_file_info(selector)
    return [info.base_name for info in found if info.type == fs.FileType.Directory]


def stat_files(paths: Iterable[str]) -> dict[str, FileStatus]:
    """Stat the files that exist; folders with many of them, and those of buckets, are listed once.

    A network's file system sends the status of its files along with a listing, where each file
    would take a request.
    """
    found: dict[str, FileStatus] = {}
    local: dict[str, list[str]] = defaultdict(list)
    remote: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if is_remote(path):
            remote[parent_of(path)].append(path)
        else:
            local[os.path.dirname(path)].append(path)  # noqa: PTH120 - a Path costs more
    for folder, members in local.items():
        for path in _in_listed_order(folder, members):
            if (status := _stat(path)) and stat.S_ISREG(status.st_mode):
                found[path] = FileStatus(status.st_size, status.st_mtime_ns)
    for folder, members in remote.items():
        listed = list_objects(folder)
        found |= {path: listed[name_of(path)] for path in members if name_of(path) in listed}
    return found


def find_status(
    paths: Iterable[str], known: Mapping[str, FileStatus] | None = None
) -> dict[str, FileStatus]:
    """Return ``stat_files`` of some files; those that are known are not asked for again."""
    known = known or {}
    wanted = set(paths)
    return {p: known[p] for p in wanted & known.keys()} | stat_files(wanted - known.keys())


def _in_listed_order(folder: str, paths: list[str]) -> Iterator[str]:
    """Yield paths in a folder as a listing of it comes to them, then those that it lacks."""
    left = dict.fromkeys(paths)
    if len(left) >= MIN_LISTED:
        prefix = f"{folder}/" if folder else ""
        with suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                path = f"{prefix}{entry.name}"
                if path in left:
                    del left[path]
                    yield path
    # a file system that ignores capitals finds them all the same
    yield from left


def exists(path: str) -> bool:
    """Return True if there is a file or folder of this machine under the path.

    Raises:
        UserError: A folder on the way may not be entered.
    """
    return _stat(path) is not None


def _stat(path: str) -> os.stat_result | None:
    """Stat a path; None if there can be no such file.

    Raises:
        UserError: A folder on the way may not be entered.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - a Path costs more than the call
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: permission denied") from error
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return None
        raise
