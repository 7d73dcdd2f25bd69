"""Bytes of the files in a folder as a running total, which all processes of the machine continue.

The total lies in a small file, with the folder's time of change. A process that is killed between
its change and its entry, and everybody who changes the folder without one, leaves another time
there: the files are counted again. So they are when a process begins to use the folder, and after
as many changes as there were files, since a clock may be too coarse to show each change.

The file also says how many bytes the folder had when its disk was full: for a minute that is a
limit for all processes.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

FULL_S = 60.0
"""Seconds for which a disk that was full is a limit."""
_RECORD_BYTES = 512

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Total:
    """Content of the file.

    Attributes:
        used_bytes: Bytes of all files.
        num_left: Changes until the files are counted again.
        folder_ns: Time of the folder's last change.
        full_bytes: Bytes of all files when the disk was full.
        full_until_s: Time until which that is a limit.
    """

    used_bytes: int = 0
    num_left: int = 0
    folder_ns: int = 0
    full_bytes: int = 0
    full_until_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """The total while the lock is held.

    Attributes:
        used_bytes: Bytes of all files; None if they must be counted.
        has_listed: They were counted under this lock.
    """

    used_bytes: int | None
    has_listed: bool = False

    def add(self, size_bytes: int) -> None:
        """Add the bytes of a change, less than 0 for what was deleted."""
        if self.used_bytes is not None:
            self.used_bytes += size_bytes


class RoomAccount:
    """The running total of a folder; its lock is held wherever the total is read or changed.

    Args:
        folder: The folder.
        name: Name of the file in it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, folder / name

    def full_bytes(self) -> int | None:
        """Return the bytes that the files may have since the disk was full; None for no limit.

        The lock need not be held.
        """
        total = self._read()
        is_full = 0 <= total.full_until_s - time.time() <= FULL_S
        return total.full_bytes if is_full else None

    def used_bytes(self) -> int:
        """Return the last total, which may be old; the lock need not be held."""
        return self._read().used_bytes

    def set_counted(self, used_bytes: int, num_files: int) -> None:
        """Note the bytes and the number of all files, which have just been counted."""
        total = replace(self._read(), used_bytes=used_bytes, num_left=max(num_files, 64))
        self._write(total)

    def forget(self) -> None:
        """Let the files be counted again: others may have changed the folder unseen."""
        self._write(replace(self._read(), num_left=0))

    def set_full(self, full_bytes: int) -> None:
        """Note that the disk is full, with so many bytes of the folder on it."""
        until_s = time.time() + FULL_S
        self._write(replace(self._read(), full_bytes=full_bytes, full_until_s=until_s), keeps=True)

    @contextmanager
    def changing(self, *, ignores_time: bool = False) -> Iterator[Tally]:
        """Continue the total: the context keeps it right with each of its changes.

        Args:
            ignores_time: The folder has changed since, by the one who continues.
        """
        tally = Tally(self._known_bytes(ignores_time=ignores_time))
        try:
            yield tally
        finally:
            if tally.used_bytes is not None:
                total = self._read()
                total = replace(total, used_bytes=tally.used_bytes, num_left=total.num_left - 1)
                self._write(total)

    def _known_bytes(self, *, ignores_time: bool) -> int | None:
        total = self._read()
        is_right = ignores_time or total.folder_ns == self._folder.stat().st_mtime_ns
        return total.used_bytes if is_right and total.num_left > 0 else None

    def _read(self) -> Total:
        try:
            return Total(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Total()

    def _write(self, total: Total, *, keeps: bool = False) -> None:
        """Write the file in place: its name does not change the folder's time again.

        Args:
            total: The content; its time is that of now.
            keeps: Keep the time.
        """
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError as error:
            logger.debug("no total in %s (%s)", self._path, error)
            return
        try:
            if not keeps:
                total = replace(total, folder_ns=self._folder.stat().st_mtime_ns)
            with suppress(OSError):  # a full disk: the next process counts
                # one write of always the same length: a killed process leaves no half of it
                os.pwrite(descriptor, json.dumps(asdict(total)).encode().ljust(_RECORD_BYTES), 0)
        finally:
            os.close(descriptor)
