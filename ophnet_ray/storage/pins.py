"""Marks on the files of a folder that a process needs soon, seen by all processes of the machine.

A mark is a shared lock on one byte of a lock file, whose place follows from the name: thousands of
marks take one open file, and the operating system frees those of a process that ends, however it
ends. A system without such locks shows no marks: files may be deleted early and fetched again.
"""

import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NUM_SLOTS = 128
"""Processes that are counted at most."""
_FIRST_NAME = 1 << 20

logger = logging.getLogger(__name__)


class Pins:
    """Marks of this process in a folder, and those of the others.

    Locks of this kind belong to a process and end when it closes the file anywhere: there must be
    one object per process and file.

    Args:
        path: The lock file; its folder exists when the first mark is set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._descriptor: int | None = None
        self._held: set[str] = set()
        self._slot: int | None = None

    def add(self, name: str) -> bool:
        """Mark a name; return False while another process deletes the file."""
        with self._guard:
            if name not in self._held and not self._lock(_place_of(name), fcntl.LOCK_SH):
                return False
            self._held.add(name)
            return True

    def remove(self, name: str) -> None:
        """Take this process's mark from a name."""
        with self._guard:
            if name in self._held:
                self._held.remove(name)
                self._lock(_place_of(name), fcntl.LOCK_UN)

    @contextmanager
    def free(self, name: str) -> Iterator[bool]:
        """Yield True if no other process has marked a name, and let none do so meanwhile."""
        with self._guard:
            place = _place_of(name)
            is_free = self._lock(place, fcntl.LOCK_EX)
            try:
                yield is_free
            finally:
                if is_free:
                    self._lock(place, fcntl.LOCK_SH if name in self._held else fcntl.LOCK_UN)

    def enter(self) -> None:
        """Be counted among the processes that share the folder."""
        with self._guard:
            if self._slot is None:
                taken = (slot for slot in range(NUM_SLOTS) if self._lock(slot, fcntl.LOCK_EX))
                self._slot = next(taken, None)

    def leave(self) -> None:
        """Be counted no more."""
        with self._guard:
            if self._slot is not None:
                self._lock(self._slot, fcntl.LOCK_UN)
                self._slot = None

    def count_sharing(self) -> int:
        """Return the number of processes that share the folder, with this one."""
        with self._guard:
            return 1 + sum(self._is_taken(slot) for slot in range(NUM_SLOTS) if slot != self._slot)

    def _is_taken(self, slot: int) -> bool:
        if not self._lock(slot, fcntl.LOCK_SH):
            return True
        self._lock(slot, fcntl.LOCK_UN)
        return False

    def _lock(self, place: int, kind: int) -> bool:
        """Lock a byte of the file; return False if another process's lock is in the way."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                logger.debug("no marks in %s (%s)", self._path, error)
                return True
        try:
            wait = 0 if kind == fcntl.LOCK_UN else fcntl.LOCK_NB
            fcntl.lockf(self._descriptor, kind | wait, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            logger.debug("%s has no locks (%s)", self._path, error)
        return True


def _place_of(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return _FIRST_NAME + int.from_bytes(digest)
