"""Node-local copies of bucket objects, fetched once per machine for all processes and runs."""

import errno
import getpass
import hashlib
import os
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.storage.files import download, stat_files, upload, write_atomically
from ophnet_ray.storage.locks import NamedLocks
from ophnet_ray.storage.paths import absolute, is_remote, join, name_of, plain_uri
from ophnet_ray.storage.records import dump_record, read_record

ORIGIN_FILE = ".origin"
"""File in a folder of this machine that is kept equal to a folder of a bucket, and names both."""

_CURE = "delete it: the next train.py on the same run writes it again"


def default_local_dir() -> str:
    """Return a folder of the user in the system's temporary folder."""
    return str(Path(tempfile.gettempdir()) / f"ophnet-ray-{_user_name()}")


def _user_name() -> str:
    """Return the name of the user; the number where the system knows no name, as in OpenShift."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def local_folder(uri: str, local_dir: str | None) -> Path:
    """Return this machine's folder for copies of a bucket folder; create it when it is missing.

    Args:
        uri: The folder of the bucket.
        local_dir: Value of ``--local_cache_dir``.

    Raises:
        UserError: The folder cannot be created.
    """
    digest = hashlib.blake2b(plain_uri(uri).encode(), digest_size=4).hexdigest()
    return user_folder(f"{name_of(uri)}-{digest}", local_dir)


def user_folder(name: str, local_dir: str | None) -> Path:
    """Return a folder of this machine and user by its name; create it when it is missing.

    Args:
        name: Plain name.
        local_dir: Value of ``--local_cache_dir``.

    Raises:
        UserError: The folder cannot be created.
    """
    root = Path(local_dir or default_local_dir())
    folder = root / name
    try:
        # private to the user, like the names of the videos in it
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        if local_dir is None and root.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
    except OSError as error:
        raise UserError(
            f"--local_cache_dir {root} cannot be written: {error.strerror or error}"
        ) from error
    return folder


def private_folder(name: str, local_dir: str | None) -> Path:
    """Return a folder that no other user may enter, for files that are executed.

    Args:
        name: Plain name.
        local_dir: Value of ``--local_cache_dir``, which other users may write to.

    Raises:
        UserError: The folder cannot be created, or is not the user's own.
    """
    folder = user_folder(f"{name}-{_user_name()}", local_dir)
    status = folder.stat(follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; give another --local_cache_dir")
    folder.chmod(0o700)
    return folder


def mark_copy(folder: Path, uri: str) -> None:
    """Note in a folder of this machine that it is kept equal to a folder of a bucket."""
    note = {"folder": str(folder.absolute()), "uri": uri}
    write_atomically(folder / ORIGIN_FILE, dump_record(note))


def find_origin(file: Path) -> str | None:
    """Return the URI of a file in a folder of ``mark_copy``; None for other files.

    A folder that was moved or copied since belongs to the user alone.

    Raises:
        DamagedFileError: The note in the folder is damaged.
    """
    path = file.absolute()
    for folder in path.parents:
        if (folder / ORIGIN_FILE).is_file():
            known, uri = read_record(folder / ORIGIN_FILE, _parse_note, _CURE)
            return join(uri, path.relative_to(folder).as_posix()) if known == folder else None
    return None


def _parse_note(note: dict[str, Any]) -> tuple[Path, str]:
    """Return the folder and the URI of a note.

    Raises:
        KeyError, TypeError: An entry is missing, or no text.
    """
    if not isinstance(note["uri"], str):
        raise TypeError("no URI")
    return Path(note["folder"]), note["uri"]


def send_to_origin(file: Path) -> None:
    """Send a file to the bucket if it lies in a folder of ``mark_copy``; else do nothing.

    Raises:
        DamagedFileError: The note that names the bucket is damaged.
        StorageError: The bucket does not take it.
    """
    if (origin := find_origin(file)) is not None:
        upload(file, origin)


def fetch_once(uri: str, target: Path) -> Path:
    """Fetch an object unless it is present; of several processes, one fetches it.

    Raises:
        OSError: It cannot be fetched or written.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedLocks(target.parent / "claims").hold(target.name):
            if not target.exists():
                download(uri, target)
    return target


def fetch_version(uri: str, local_dir: str | None = None) -> Path:
    """Fetch an object that may change: each size and time in the bucket has its own copy here.

    Raises:
        FileNotFoundError: The object does not exist.
        OSError: It cannot be fetched or written.
    """
    status = stat_files([uri]).get(uri)
    if status is None:
        raise FileNotFoundError(f"{plain_uri(uri)} does not exist")
    version = hashlib.blake2b(repr(status).encode(), digest_size=4).hexdigest()
    return fetch_once(uri, local_folder(uri, local_dir) / version / name_of(uri))


def hash_content(flag: str, path: str) -> str:
    """Return ``sha256:`` and the hash of a file on disk or in a bucket, the same wherever it lies.

    Raises:
        UserError: The file is missing or cannot be read; it names the flag.
    """
    try:
        local = fetch_version(path) if is_remote(path) else Path(absolute(path))
        status = local.stat()
        if not local.is_file():
            raise UserError(f"{flag} {path} is no file; give one, of a run one of its checkpoints")
        return f"sha256:{_hash_version(local, (status.st_size, status.st_mtime_ns))}"
    except FileNotFoundError as error:
        raise UserError(f"{flag} {plain_uri(path)} does not exist") from error
    except OSError as error:
        raise UserError(f"{flag} {plain_uri(path)}: {error.strerror or error}") from error


@cache
def _hash_version(path: Path, version: tuple[int, int]) -> str:  # noqa: ARG001 - the memo's key
    """Hash a file once per process and version: its size and time of change."""
    return hash_file(path)
