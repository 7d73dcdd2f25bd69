"""Who decodes what: several runs that fill one cache share the work.

A claim is a lock on a file of its own. It goes with the process that holds it, however that ends,
so that nothing is left waiting for a killed one.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)


class NamedLocks:
    """NamedLocks on names.

    Args:
        folder: Of the lock files; made when it is missing. Runs on several machines share their
            work when its file system passes locks on, else each does all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @contextmanager
    def take_free(self, groups: Iterable[Sequence[str]]) -> Iterator[set[str]]:
        """Claim those names that nobody else holds, for as long as the context lasts.

        A group whose first name somebody holds is left to them whole: they are about to claim the
        others, and two that come at the same moment do not end up with a part of it each.
        """
        with ExitStack() as held:
            taken = set()
            for group in groups:
                for place, name in enumerate(group):
                    if held.enter_context(self._lock(name, wait=False)):
                        taken.add(name)
                    elif place == 0:
                        break
            yield taken

    def wait_for(self, name: str) -> None:
        """Wait until nobody holds the name."""
        logger.info("waiting for another run that decodes %s", name)
        with self.hold(name):
            pass

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Claim a name for as long as the context lasts, once nobody else holds it."""
        with self._lock(name, wait=True):
            yield

    @contextmanager
    def _lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        path = self.folder / name
        while True:
            try:
                descriptor = open_for_lock(path)
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
                logger.warning("%s knows no locks (%s); the work is not shared", path, error)
                break
            if _is_at(descriptor, path):
                break
            os.close(descriptor)  # the one before has just removed this file
        try:
            yield True
        finally:
            with suppress(PermissionError):  # another user's file in a folder that keeps it
                path.unlink(missing_ok=True)
            os.close(descriptor)


def open_for_lock(path: Path) -> int:
    """Open a lock file, made when it is missing.

    For writing, as NFS asks of an exclusive lock; another user's file for reading.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
