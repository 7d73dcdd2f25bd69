"""Names of files and folders that are being written: no two are equal, and each says who writes it.

A killed writer leaves its file. It is deleted when the writer is known to be gone: a process of
this machine that runs no more, or anybody who has written nothing for an hour.
"""

import hashlib
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from ophnet_ray.storage.processes import is_gone, this_machine

UNFINISHED = ".new."
"""Beginning of the names."""
LEFTOVER_AGE_S = 3_600.0
"""Seconds without a write after which a file has no writer."""
_OWNER = re.compile(r"\.[^.]+\.(\d+)-([0-9a-f]{8})-")


def unfinished_name(beginning: str = UNFINISHED) -> str:
    """Return a name for a new file of this process that no other file has."""
    return f"{beginning}{os.getpid()}-{_machine()}-{secrets.token_hex(8)}"


def is_abandoned(name: str, mtime_s: float) -> bool:
    """Return True if nobody writes an unfinished file any more.

    Args:
        name: Its name; one of an earlier version says nothing about the writer.
        mtime_s: Time of its last change.
    """
    owner = _OWNER.match(name)
    # a machine without an identity may be another container of the same name
    if this_machine() and owner is not None and owner[2] == _machine() and is_gone(int(owner[1])):
        return True
    return is_old(mtime_s)


def is_old(mtime_s: float) -> bool:
    """Return True if a file that somebody writes would have changed since."""
    return time.time() - mtime_s > LEFTOVER_AGE_S


def delete_unnamed(*folders: Path) -> None:
    """Delete the files that killed writers left without a name; nobody else may be writing."""
    for folder in folders:
        for leftover in folder.glob(f"{UNFINISHED}*"):
            leftover.unlink(missing_ok=True)


def delete_abandoned(*folders: Path) -> None:
    """Delete the unfinished files that nobody writes any more, while others may be writing.

    One that this user may not delete stays. The cost is a listing of each folder.
    """
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.startswith(UNFINISHED)]
        except FileNotFoundError:
            continue
        for name in names:
            with suppress(FileNotFoundError, PermissionError):
                if is_abandoned(name, (folder / name).stat().st_mtime):
                    (folder / name).unlink()


def _machine() -> str:
    identity = f"{this_machine()} {socket.gethostname()}"
    return hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
