"""Exclusive locks for file systems that have none: a file that its holder renews.

The file is created so that only one process can (``O_EXCL``), and names its holder. The holder
renews its time. A file that was not renewed for ``STALE_S`` belongs to a process that is gone, and
is taken over. A former holder that wakes up says so and renews no more, but it is not stopped: its
writes are atomic, and land beside those of the new one. In a bucket they do not, see
``bucket_locks``.
"""

import json
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from ophnet_ray.errors import UserError
from ophnet_ray.storage.processes import is_gone, this_machine

RENEW_S, STALE_S = 10.0, 60.0
POLL_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        host: Name of its machine.
        pid: Its number there.
        since: Time at which it took the lock, for people.
        token: Random text, different for each lock that is taken.
        machine: Identity of the machine since its start, and of the container: two may have one
            name. Empty in locks of earlier versions, and outside Linux.
        renewed: Time at which it last said that it is alive, in a bucket.
    """

    host: str = ""
    pid: int = 0
    since: str = ""
    token: str = ""
    machine: str = ""
    renewed: str = ""

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a holder of now."""
        return cls(socket.gethostname(), os.getpid(), _now(), secrets.token_hex(8), this_machine())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the holder from a lock file; an unknown one where it says nothing."""
        try:
            return cls.parse(path.read_bytes())
        except OSError:
            return cls()

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Return the holder that the content of a lock names; an unknown one if it names none."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return cls()

    def renew(self) -> Self:
        """Return the same holder, alive now."""
        return replace(self, renewed=_now())

    def is_dead_here(self) -> bool:
        """Return True if the holder surely ran on this machine, in this container, and is gone.

        Without an identity of the machine that is not known: another container may have its name.
        """
        is_ours = (self.host, self.machine) == (socket.gethostname(), this_machine())
        return bool(self.machine) and is_ours and is_gone(self.pid)

    def to_bytes(self) -> bytes:
        """Return the content of the lock file."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        """Return the holder as a part of a sentence."""
        if not self.host:
            return "a process that does not say its name"
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def claimed(
    path: Path, busy: str | None, tell: Callable[[str], None], notice_interval_s: float
) -> Iterator[None]:
    """Hold ``<path>.held`` for as long as the context lasts.

    Args:
        path: The lock file.
        busy: Error message if another process holds it; without one, wait for that process.
        tell: Receives a line that names the holder while this process waits.
        notice_interval_s: Seconds between these lines.

    Raises:
        UserError: Another process holds the lock, and ``busy`` is given.
        OSError: The file cannot be written.
    """
    claim, holder = path.with_name(f"{path.name}.held"), Holder.of_this_process()
    told_s = time.monotonic()
    while not _create(claim, holder):
        if _remove_stale(claim):
            continue
        if busy:
            raise UserError(f"{busy} ({Holder.read(claim)})")
        if time.monotonic() - told_s > notice_interval_s:
            told_s = time.monotonic()
            tell(f"waiting for {path}, held by {Holder.read(claim)}")
        time.sleep(POLL_S)
    is_over = threading.Event()
    threading.Thread(
        target=_renew, args=(claim, holder, is_over, tell), name="lock renewal", daemon=True
    ).start()
    try:
        yield
    finally:
        is_over.set()
        if Holder.read(claim) == holder:
            claim.unlink(missing_ok=True)
        else:
            logger.error("another process has taken %s over: this one was silent too long", claim)


def _create(claim: Path, holder: Holder) -> bool:
    try:
        descriptor = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(holder.to_bytes())
    return True


def _renew(
    claim: Path, holder: Holder, is_over: threading.Event, tell: Callable[[str], None]
) -> None:
    while not is_over.wait(RENEW_S):
        try:
            taker = Holder.parse(claim.read_bytes())
            if taker != holder:
                tell(
                    f"{claim} was taken over by {taker}: this process gave no sign of life for "
                    f"{STALE_S:.0f} s; stop one of the two"
                )
                return
            os.utime(claim)
        except OSError as error:
            logger.warning("%s cannot be renewed: %s", claim, error)


def _remove_stale(claim: Path) -> bool:
    """Remove a claim whose holder is gone; return False if it is alive, as far as one can see.

    One process at a time judges and removes, under a file of its own: else a second one, which
    judged before, would remove what the first has created since.
    """
    judge = claim.with_name(f"{claim.name}.judged")
    if not _create(judge, Holder.of_this_process()):
        with suppress(FileNotFoundError):
            # a process was killed within the milliseconds of its judgement
            if _age_s(judge) > STALE_S:
                judge.unlink()
        return False
    try:
        is_gone = _age_s(claim) > STALE_S or Holder.read(claim).is_dead_here()
        if is_gone:
            claim.unlink()
    except FileNotFoundError:
        return True  # the holder has just left
    finally:
        judge.unlink(missing_ok=True)
    return is_gone


def _age_s(path: Path) -> float:
    """Return the seconds since a file was renewed, by the clock of the storage: ours may differ.

    Raises:
        FileNotFoundError: It does not exist.
    """
    written_s = path.stat().st_mtime
    with tempfile.NamedTemporaryFile(dir=path.parent) as now:
        return Path(now.name).stat().st_mtime - written_s


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
