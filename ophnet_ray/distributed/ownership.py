"""Files, folders and sockets of Ray on a machine with other users: whom they belong to."""

import os
import secrets
import stat
import tempfile
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.storage.locks import exclusive

MAX_TEMP_CHARS = 25
"""Longest temporary folder of the system that is taken: the paths of Ray's sockets below it have at
most 107 characters."""
_LISTENING = "0A"


def is_trusted_file(path: Path) -> bool:
    """Return True if a file is ours or root's, and nobody else may write it.

    On many systems users have a group of their own, which may write their files: that one counts as
    the user.
    """
    try:
        status = path.lstat()
    except OSError:
        return False
    is_open = status.st_mode & stat.S_IWOTH
    is_open |= status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getgid())
    return stat.S_ISREG(status.st_mode) and _is_trusted(status.st_uid) and not is_open


def is_trusted_listener(address: str) -> bool:
    """Return True unless another user of this machine listens at ``host:port``.

    Of other machines, and where the system has no ``/proc/net``, nothing is known: True.
    """
    port = f"{int(address.rpartition(':')[2]):04X}"
    owners = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTENING and fields[1].endswith(f":{port}"):
                owners.add(int(fields[7]))
    return all(map(_is_trusted, owners))


def _is_trusted(uid: int) -> bool:
    return uid in (0, os.getuid())


def own_ray_folder() -> str:
    """Return a folder for a Ray of this user, below one that nobody else may enter; create that.

    Ray opens its own folder to all users of a machine, whatever it was before. Where the user names
    a folder with ``RAY_TMPDIR``, that one is taken as it is.

    Raises:
        UserError: The folder belongs to another user.
    """
    if named := os.environ.get("RAY_TMPDIR"):
        return str(Path(named) / "ray")
    system = tempfile.gettempdir()
    parent = Path(system if len(system) <= MAX_TEMP_CHARS else "/tmp")  # noqa: S108 - it is short
    folder = parent / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set RAY_TMPDIR to a folder of your own")
    folder.chmod(0o700)
    return str(folder / "ray")


def create_token(path: Path) -> None:
    """Write a token for Ray that only this user may read, unless there is one.

    Ray itself would write it readable for everybody. The file appears whole: a run that starts at
    the same moment, or after a kill, reads no half of a token.
    """
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # readable for its user alone
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        _name_once(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def _name_once(file: Path, path: Path) -> None:
    """Give a file its name, unless another process was quicker."""
    try:
        os.link(file, path)
    except FileExistsError:
        return
    except OSError:  # FAT, and many file systems in user space, have no hard links
        with exclusive(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                file.replace(path)


def check_token_file(path: Path) -> None:
    """Refuse a token that other users of this machine may read or have written.

    A token in ``RAY_AUTH_TOKEN`` takes the place of the file, and without authentication none is
    read.

    Raises:
        UserError: Naming the cure.
    """
    is_read = os.environ.get("RAY_AUTH_MODE") == "token" and "RAY_AUTH_TOKEN" not in os.environ
    if not (is_read and path.exists()):
        return
    status = path.stat()
    if not _is_trusted(status.st_uid):
        raise UserError(f"the token {path} belongs to another user; set RAY_AUTH_TOKEN_PATH")
    if status.st_mode & 0o077 and status.st_uid == os.getuid():
        raise UserError(f"other users may read the token {path}; chmod 600 {path}")
