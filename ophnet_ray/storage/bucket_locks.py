"""Exclusive locks in buckets, between machines, with a number that fences a former holder off.

A lock is a folder of numbered objects; the highest number holds it. An object is created only if
there is none of its number, so of two processes one gets it. It names its holder, who writes it
again every ``RENEW_S`` seconds. Nobody compares clocks: a process that finds a lock held watches
it, is refused once it is renewed, and takes it over after ``STALE_S`` seconds without a sign of
life. A former holder that wakes up finds a higher number, and starts to write nothing more: driver
and workers check the number before each transfer and each deletion (``RunMirror``), and the run
ends with a ``LostLockError`` at its next checkpoint.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ophnet_ray.errors import UserError
from ophnet_ray.storage.claims import POLL_S, RENEW_S, STALE_S, Holder
from ophnet_ray.storage.conditional_put import NoConditionalPutError, create_object
from ophnet_ray.storage.files import delete_object, list_objects, read_bytes, write_object
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.paths import join, plain_uri

LOCK_FOLDER = ".lock"
_SIZE_BYTES = 512
"""Size of each object: pyarrow asks for it before it reads, and the holder may write in between."""

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]


class LostLockError(StorageError):
    """A lock that another process has taken over: its former holder must write nothing more."""


@dataclass(frozen=True, slots=True)
class BucketClaim:
    """A lock that this program took: the processes of a run check it before they write.

    Attributes:
        uri: The locked folder.
        number: Number of the object that holds the lock.
    """

    uri: str
    number: int

    def check(self, *, is_probe: bool = False) -> None:
        """Make sure that nobody else has taken the lock; a probe gives up after seconds.

        Raises:
            LostLockError: Somebody has.
            StorageError: The bucket does not answer.
        """
        last = _last_number(self.uri, is_probe=is_probe)
        if last == self.number:
            return
        content = _read(self.uri, last)
        taker = Holder.parse(content) if content else "a process that has left"
        raise LostLockError(
            f"{plain_uri(self.uri)} was taken over by {taker}: this process gave no sign of life "
            f"for {STALE_S:.0f} s, or its lock was deleted; it writes nothing more there"
        )


@contextmanager
def claimed_in_bucket(uri: str, busy: str, tell: Tell) -> Iterator[BucketClaim | None]:
    """Hold the lock of a folder of a bucket for as long as the context lasts.

    Yields:
        The claim; None where the bucket cannot create an object on a condition: nobody is kept
        out then.

    Args:
        uri: The folder.
        busy: Error message if another process holds it.
        tell: Receives a line when the lock is watched or lost, and when there is none.

    Raises:
        UserError: Another process holds the lock.
        StorageError: The bucket does not answer.
    """
    holder = Holder.of_this_process()
    try:
        claim = _acquire(uri, holder, busy, tell)
    except NoConditionalPutError as error:
        tell(
            f"{plain_uri(uri)} cannot be locked ({error}): a second run of this name on another "
            "machine is not refused"
        )
        yield None
        return
    is_over = threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(claim, holder, is_over, tell), name="lock renewal", daemon=True
    )
    renewal.start()
    try:
        yield claim
    finally:
        is_over.set()
        renewal.join()  # a renewal after the release would hold the lock for another minute
        _release(claim)


def _acquire(uri: str, holder: Holder, busy: str, tell: Tell) -> BucketClaim:
    while True:
        last = _last_number(uri)
        _wait_until_free(uri, last, busy, tell)
        number = last + 1
        if not _create(uri, number, holder):
            continue
        if _last_number(uri) != number:
            # this process was held up, and others came and went: the number was free again
            delete_object(_object(uri, number))
            continue
        for older in _numbers(uri) - {number}:
            delete_object(_object(uri, older))
        return BucketClaim(uri, number)


def _create(uri: str, number: int, holder: Holder) -> bool:
    """Create the object of a number; return False if another process has.

    Raises:
        NoConditionalPutError: The bucket ignores the condition.
    """
    place = _object(uri, number)
    if not create_object(place, _pad(holder.to_bytes())):
        # the answer to the first of two attempts may have been lost
        return Holder.parse(_read(uri, number)).token == holder.token
    if create_object(place, _pad(holder.to_bytes())):
        delete_object(place)
        raise NoConditionalPutError("it has no conditional put")
    return True


def _wait_until_free(uri: str, number: int, busy: str, tell: Tell) -> None:
    """Return once a lock is free or its holder is gone.

    Raises:
        UserError: The holder is alive.
    """
    seen = _read(uri, number)
    if not seen:
        return
    holder = Holder.parse(seen)
    if holder.is_dead_here():
        return
    tell(
        f"{plain_uri(uri)} is held by {holder}; looking for a sign of life for up to "
        f"{STALE_S:.0f} s"
    )
    end_s = time.monotonic() + STALE_S
    while time.monotonic() < end_s:
        time.sleep(POLL_S)
        content = _read(uri, number)
        if not content:
            return
        if content != seen:
            raise UserError(f"{busy} ({holder})")
    tell(f"{holder} gave no sign of life for {STALE_S:.0f} s: its lock is taken over")


def _renew(claim: BucketClaim, holder: Holder, is_over: threading.Event, tell: Tell) -> None:
    while not is_over.wait(RENEW_S):
        try:
            # a request that hangs for minutes would let a live holder look dead
            claim.check(is_probe=True)
            content = _pad(holder.renew().to_bytes())
            write_object(_object(claim.uri, claim.number), content, is_probe=True)
        except LostLockError as error:
            tell(str(error))
            return
        except OSError as error:
            logger.warning("the lock of %s cannot be renewed: %s", plain_uri(claim.uri), error)


def _release(claim: BucketClaim) -> None:
    """Mark a lock as free. Its object stays: a number is used once while it is the highest."""
    try:
        claim.check(is_probe=True)
        write_object(_object(claim.uri, claim.number), _pad(b""), is_probe=True)
    except OSError as error:
        logger.warning("the lock of %s is not released: %s", plain_uri(claim.uri), error)


def _object(uri: str, number: int) -> str:
    return join(uri, f"{LOCK_FOLDER}/{number:08d}")


def _pad(content: bytes) -> bytes:
    return content.ljust(_SIZE_BYTES)


def _numbers(uri: str, *, is_probe: bool = False) -> set[int]:
    listed = list_objects(join(uri, LOCK_FOLDER), is_probe=is_probe)
    return {int(name) for name in listed if name.isdecimal()}


def _last_number(uri: str, *, is_probe: bool = False) -> int:
    """Return the highest number of a lock; 0 where nobody ever held it."""
    return max(_numbers(uri, is_probe=is_probe), default=0)


def _read(uri: str, number: int) -> bytes:
    """Read what a number says; empty if its holder has released it, if it is gone, or 0."""
    if not number:
        return b""
    try:
        return read_bytes(_object(uri, number)).strip()
    except FileNotFoundError:
        return b""
    except StorageError:
        if number in _numbers(uri):
            raise
        return b""  # Google's has no error of its own for it
