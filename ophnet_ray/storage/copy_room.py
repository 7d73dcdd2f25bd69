"""Room for the copies of bucket objects in a folder of this machine, shared by its processes.

What a process needs soon is marked, see ``pins``: nobody deletes it. What it needs last makes room.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ophnet_ray.storage.files import stat_objects
from ophnet_ray.storage.locks import NamedLocks, exclusive
from ophnet_ray.storage.pins import Pins

PINS, ROOM_LOCK = ".pins", ".room"
PART = ".fetch."
"""Beginning of the name of a file that is being fetched; the rest is its own name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    """A file in the folder."""

    name: str
    size_bytes: int
    used_ns: int


class Plan(Protocol):
    """Order in which a process uses files."""

    def next_use(self, name: str) -> float:
        """Return the steps until the next use of a file: 0 or less now, infinity for never."""

    def lose(self, name: str) -> None:
        """Learn that a file was deleted, which is used later than others that needed its room."""


class NoRoomError(Exception):
    """Nothing can be deleted that is needed later than the file that should be fetched."""


class CopyRoom:
    """The copies in a folder, and what this process needs of them.

    Args:
        folder: The folder.

    Attributes:
        pins: Marks on files that are needed soon.
        max_bytes: Bytes of all files in the folder; None for as many as the disk holds.
        tell: Receives a line, once, if these are too few for what is read at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pins = Pins(folder / PINS)
        self.max_bytes: int | None = None
        self.tell: Callable[[str], None] = logger.warning
        self.claims = NamedLocks(folder / "claims")
        self._plans: list[Plan] = []
        self.has_warned = False
        self._pinned: dict[str, int] = {}

    def begin(self, plan: Plan) -> None:
        """Heed a plan of this process until ``end``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pins.enter()
        self._plans.append(plan)

    def end(self, plan: Plan) -> None:
        """Heed a plan no more."""
        self._plans.remove(plan)
        if not self._plans:
            self.pins.leave()

    def next_use(self, name: str) -> float:
        """Return the steps until the next use of a file in any plan of this process."""
        return min((plan.next_use(name) for plan in self._plans), default=math.inf)

    def pin(self, name: str) -> bool:
        """Mark a copy as needed soon; return False if it is not there."""
        if self.pins.add(name):
            with suppress(FileNotFoundError):
                self._pinned[name] = (self.folder / name).stat().st_size
                return True
            self.pins.remove(name)
        return False

    def unpin(self, name: str) -> None:
        """Remove the mark from a copy, unless a plan of this process needs it; it was used now."""
        if self.next_use(name) == math.inf:
            with suppress(OSError):  # gone, or another user's
                os.utime(self.folder / name)
            self._unmark(name)

    def shed(self) -> None:
        """Remove the marks beyond the share of this process, from what it needs last."""
        if self.max_bytes is None:
            return
        share = self.max_bytes // self.pins.count_sharing()
        kept = 0
        pinned = dict(self._pinned)
        for use, name in sorted((self.next_use(name), name) for name in pinned):
            kept += pinned[name]
            if kept > share and use > 0:
                self._lose(name)

    def make_room(self, size_bytes: int, uri: str, before: float | None = None) -> None:
        """Delete copies until so many bytes more are within ``max_bytes``.

        Args:
            size_bytes: Bytes that will be written.
            uri: Folder of the bucket: what it lacks is no copy, and stays.
            before: See ``fetch``.

        Raises:
            NoRoomError: There is no room before that use.
        """
        if self.max_bytes is None:
            return
        with exclusive(self.folder / ROOM_LOCK):
            self._make_room(size_bytes, self.max_bytes, uri, before)

    def _unmark(self, name: str) -> None:
        self._pinned.pop(name, None)
        self.pins.remove(name)

    def _lose(self, name: str) -> None:
        self._unmark(name)
        for plan in self._plans:
            plan.lose(name)

    def _check_share(self, target: Path, before: float | None) -> None:
        """Raise ``NoRoomError`` if a copy that is there is beyond the share of this process."""
        if before is not None and self.max_bytes is not None:
            own = [
                Copy(name, size_bytes, 0)
                for name, size_bytes in list(self._pinned.items())
                if name != target.name
            ]
            with suppress(FileNotFoundError):
                if self._exceeds_share(own, target.stat().st_size, self.max_bytes, before):
                    raise NoRoomError

    def _make_room(self, size_bytes: int, max_bytes: int, uri: str, before: float | None) -> None:
        copies = self._list_copies()
        used = sum(copy.size_bytes for copy in copies)
        if before and self._exceeds_share(copies, size_bytes, max_bytes, before):
            raise NoRoomError
        for copy in self._spare(copies, uri, before) if used + size_bytes > max_bytes else ():
            used -= copy.size_bytes
            if used + size_bytes <= max_bytes:
                return
        if used + size_bytes <= max_bytes:
            return
        if before is not None:
            raise NoRoomError
        if not self.has_warned:
            self.has_warned = True
            self.tell(
                f"--local_cache_bytes {max_bytes} is too small for what "
                f"{self.pins.count_sharing()} processes read from {self.folder} at a time: it "
                f"holds {used + size_bytes:,} bytes, and files are fetched again and again"
            )

    def _exceeds_share(
        self, copies: list[Copy], size_bytes: int, max_bytes: int, before: float
    ) -> bool:
        """Return True if the process would keep more than its share for uses before this one."""
        own = sum(
            copy.size_bytes
            for copy in copies
            if self.next_use(copy.name.removeprefix(PART)) <= before
        )
        return own + size_bytes > max_bytes // self.pins.count_sharing()

    def _spare(self, copies: list[Copy], uri: str, before: float | None) -> Iterator[Copy]:
        """Delete copies one by one, and yield each: the one with the farthest next use first.

        Of those that no plan of this process needs, the one that was used longest ago comes first.
        """
        limit = 0 if before is None else before
        order = sorted(
            ((-self.next_use(copy.name), copy.used_ns, copy.name), copy)
            for copy in copies
            if not copy.name.startswith(".") and not copy.name.endswith(".json")
        )
        for (negative_use, _, _), copy in order:
            if -negative_use <= limit:
                return
            with self.pins.free(copy.name) as is_free:
                # what lies here alone is being written, or was never sent
                if is_free and stat_objects(uri, [copy.name]):
                    path = self.folder / copy.name
                    # the index first: a shard without one does not exist for a reader
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    self._lose(copy.name)
                    yield copy

    def _list_copies(self) -> list[Copy]:
        """List the files in the folder; parts that killed processes left are deleted."""
        copies = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) and not self._is_leftover(entry.name):
                        status = entry.stat(follow_symlinks=False)
                        copies.append(Copy(entry.name, status.st_size, status.st_mtime_ns))
        return copies

    def _is_leftover(self, name: str) -> bool:
        if not name.startswith(PART):
            return False
        whole = name.removeprefix(PART)
        with self.claims.take_free([[whole]]) as free:
            if whole not in free:
                return False
            (self.folder / name).unlink(missing_ok=True)
            return True
