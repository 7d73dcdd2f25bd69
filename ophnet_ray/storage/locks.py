"""Locks between processes, on files: exclusive, shared, or by name.

The operating system frees a lock when the process that holds it ends, however it ends: nobody waits
for a killed process. Processes on several machines exclude each other when the file system passes
locks on.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ophnet_ray.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold a lock file alone for as long as the context lasts.

    Args:
        path: The lock file; created when it is missing, and kept.
        busy: Error message if another process holds the lock; without one, wait for that process.

    Raises:
        UserError: Another process holds the lock, and ``busy`` is given.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise UserError(busy) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock file together with others, once nobody holds it alone.

    Raises:
        OSError: The file cannot be opened, or its file system has no locks.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


class NamedLocks:
    """Exclusive locks by name, e.g. on what a process is decoding or fetching.

    A lock file is removed with its lock. Without locks (file system, permissions), every name is
    free: the processes then all do the same work, which is a waste and no error.

    Args:
        folder: Folder of the lock files; created when the first lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def take_free(self, groups: Iterable[Sequence[str]]) -> Iterator[set[str]]:
        """Lock the names that nobody else holds for as long as the context lasts; yield them.

        A group whose first name is held is left to its holder, who is about to lock the rest: two
        processes that come at the same moment do not get a part of the group each.
        """
        with ExitStack() as held:
            taken = set()
            for group in groups:
                for position, name in enumerate(group):
                    if held.enter_context(self._lock(name, wait=False)):
                        taken.add(name)
                    elif position == 0:
                        break
            yield taken

    def wait_for(self, name: str) -> None:
        """Wait until nobody holds the name."""
        logger.info("waiting for another process that holds %s", self.folder / name)
        with self.hold(name):
            pass

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Wait until nobody holds the name, then hold it for as long as the context lasts."""
        with self._lock(name, wait=True):
            yield

    @contextmanager
    def _lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        path = self.folder / name
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = _open(path)
            except OSError as error:
                logger.warning("no lock %s (%s); the work is not shared", path, error)
                yield True
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                yield False
                return
            except OSError as error:
                logger.warning("%s has no locks (%s); the work is not shared", path, error)
                break
            if _is_at(descriptor, path):
                break
            os.close(descriptor)  # the last holder has just removed this file
        try:
            yield True
        finally:
            with suppress(PermissionError):  # another user's file in a folder that keeps it
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock file, for writing, as NFS asks of an exclusive lock; create it when missing.

    A file of another user, as in a shared cache, is opened for reading.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return True if the open file still has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
