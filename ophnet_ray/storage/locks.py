"""Locks between processes, on files: exclusive, shared, or by name.

The operating system frees a lock when the process that holds it ends, however it ends: nobody waits
for a killed process. Processes on several machines exclude each other when the file system passes
locks on. On one without locks (Lustre without ``-o flock``, some buckets mounted as folders), an
exclusive lock is a file that its holder renews, see ``claims``.

The file of an exclusive lock says who holds it: a process that waits, or is refused, can name it.
"""

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.storage.claims import Holder, claimed

FIRST_NOTICE_S, NOTICE_INTERVAL_S = 5.0, 60.0
"""Seconds of waiting after which the holder is named, for the first time and from then on."""
_POLL_S = 0.2
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


@contextmanager
def exclusive(
    path: Path,
    *,
    busy: str | None = None,
    tell: Tell = logger.warning,
    is_also_shared: bool = False,
    patience_s: float = 0.0,
) -> Iterator[None]:
    """Hold a lock file alone for as long as the context lasts.

    Args:
        path: The lock file; created when it is missing, and kept.
        busy: Error message if another process holds the lock; without one, wait for that process.
        tell: Receives a line that names the holder, after some seconds of waiting.
        is_also_shared: Others hold the lock together, see ``shared``. A file system without locks
            shows none of them.
        patience_s: Seconds to wait for the other process although ``busy`` is given: one that is
            ending. Not on a file system without locks.

    Raises:
        UserError: Another process holds the lock, and ``busy`` is given.
        OSError: The file cannot be opened; or ``is_also_shared`` on a file system without locks.
    """
    with ExitStack() as held:
        descriptor = _open(path)
        held.callback(os.close, descriptor)
        try:
            _acquire(descriptor, path, fcntl.LOCK_EX, busy, tell, patience_s)
        except OSError as error:
            if error.errno not in _NO_LOCKS or is_also_shared:
                raise
            held.enter_context(claimed(path, busy, tell, NOTICE_INTERVAL_S))
        else:
            _write_holder(descriptor)
            held.callback(_clear_holder, descriptor)
        yield


@contextmanager
def shared(path: Path, *, tell: Tell = logger.warning) -> Iterator[None]:
    """Hold a lock file together with others, once nobody holds it alone.

    On a file system without locks nobody is kept out.

    Args:
        path: The lock file; created when it is missing, and kept.
        tell: Receives a line that names the holder, after some seconds of waiting.

    Raises:
        OSError: The file cannot be opened.
    """
    descriptor = _open(path)
    try:
        try:
            _acquire(descriptor, path, fcntl.LOCK_SH, None, tell)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s has no locks (%s)", path, error)
        yield
    finally:
        os.close(descriptor)


def _acquire(
    descriptor: int,
    path: Path,
    kind: int,
    busy: str | None,
    tell: Tell,
    patience_s: float = 0.0,
) -> None:
    """Take a lock, or wait for it.

    Raises:
        UserError: It is held, and ``busy`` is given.
    """
    end_s = time.monotonic() + patience_s
    while not _try(descriptor, kind):
        if not busy:
            with _noticed(path, tell):
                fcntl.flock(descriptor, kind)
            return
        if time.monotonic() >= end_s:
            raise UserError(f"{busy} ({Holder.read(path)})")
        time.sleep(_POLL_S)


def _try(descriptor: int, kind: int) -> bool:
    """Take a lock if it is free now; return False if another process holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _noticed(path: Path, tell: Tell) -> Iterator[None]:
    """Name the holder of a lock from time to time, while this thread waits for it."""
    is_over = threading.Event()

    def name_holder() -> None:
        pause_s = FIRST_NOTICE_S
        while not is_over.wait(pause_s):
            tell(f"waiting for {path}, held by {Holder.read(path)}")
            pause_s = NOTICE_INTERVAL_S

    threading.Thread(target=name_holder, name="lock notices", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _write_holder(descriptor: int) -> None:
    with suppress(OSError):  # another user's file, opened for reading, or a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, Holder.of_this_process().to_bytes(), 0)


def _clear_holder(descriptor: int) -> None:
    with suppress(OSError):
        os.ftruncate(descriptor, 0)


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
