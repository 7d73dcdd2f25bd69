"""Room for the copies of bucket objects in a folder of this machine, shared by its processes.

What a process needs soon is marked, see ``pins``: nobody deletes it. What it needs last makes room.
A disk that was full is a limit, as ``max_bytes`` is, that all processes learn of.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ophnet_ray.storage.files import stat_objects
from ophnet_ray.storage.locks import NamedLocks, exclusive
from ophnet_ray.storage.pins import Pins
from ophnet_ray.storage.room_account import RoomAccount, Tally
from ophnet_ray.storage.spare_copies import Copy, SpareCopies
from ophnet_ray.storage.unfinished import UNFINISHED, is_abandoned, is_old

PINS, ROOM_LOCK, ROOM_TOTAL = ".pins", ".room", ".room-bytes"
PART = ".part."
"""Beginning of the name of a file that is being fetched."""
EARLIER_PART = ".fetch."
"""The one of earlier versions, which delete at once each file so named that is not their own."""
LISTING_PAUSE = 100
"""Pause before a process lists the folder again without need, for what others have changed there,
in durations of its last listing: they take at most a hundredth of the time."""
SHARING_S = 1.0
"""Seconds after which a process counts again with how many others it shares the folder."""

logger = logging.getLogger(__name__)


class Plan(Protocol):
    """Order in which a process uses files."""

    def next_use(self, name: str) -> float:
        """Return the steps until the next use of a file: 0 or less now, infinity for never."""

    def lose(self, name: str) -> None:
        """Learn that a file was deleted, which is used later than others that needed its room."""


class NoRoomError(Exception):
    """Nothing can be deleted that is needed later than the file that should be fetched."""


class FullDiskError(NoRoomError):
    """The disk is full of copies that are read now: the object can be read in its bucket only."""


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
        self.has_warned = False
        self._account = RoomAccount(folder, ROOM_TOTAL)
        self._plans: list[Plan] = []
        self._pinned = SpareCopies(self.next_use)
        self._idle = SpareCopies(self.next_use)
        self._coming: dict[str, int] = {}
        self._next_listing_s = -math.inf
        self._sharing, self._sharing_until_s = 1, -math.inf

    def begin(self, plan: Plan) -> None:
        """Heed a plan of this process until ``end``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pins.enter()
        if not self._plans:
            with exclusive(self.folder / ROOM_LOCK):
                self._account.forget()
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
                copy = self._stat(name)
                self._idle.drop(name)
                self._pinned.put(copy)
                return True
            self.pins.remove(name)
        return False

    def unpin(self, name: str) -> None:
        """Remove the mark from a copy, unless a plan of this process needs it; it was used now."""
        if self.next_use(name) == math.inf:
            with suppress(OSError):  # gone, or another user's
                os.utime(self.folder / name)
            self._unmark(name)
            with suppress(FileNotFoundError):
                self._idle.put(self._stat(name))

    def move(self, name: str) -> None:
        """Learn that a file was read, and that the plans of this process need it again."""
        self._pinned.move(name)

    def shed(self) -> None:
        """Remove the marks beyond the share of this process, from what it needs last."""
        limit = self._limit()
        if limit is None:
            return
        share = limit // self._count_sharing()
        while self._pinned.size_bytes > share:
            farthest = self._pinned.farthest()
            if farthest is None or farthest[0] <= 0:
                return
            self._lose(farthest[1].name)
            self._idle.put(farthest[1])

    def add_written(self, files: Iterable[Path], uri: str) -> None:
        """Count files that this process has written here, and delete copies beyond ``max_bytes``.

        The folder is listed again only after ``LISTING_PAUSE``: until then a change that somebody
        else has made without the running total is not noticed.

        Args:
            files: The new files.
            uri: Folder of the bucket: what it lacks is no copy, and stays.
        """
        if self.max_bytes is None:
            return
        is_fresh = time.monotonic() < self._next_listing_s
        with (
            exclusive(self.folder / ROOM_LOCK),
            self._account.changing(ignores_time=is_fresh) as tally,
        ):
            for file in files:
                with suppress(FileNotFoundError):
                    copy = self._stat(file.name)
                    tally.add(copy.size_bytes)
                    if _is_copy(copy.name) and self._pinned.size_of(copy.name) is None:
                        self._idle.put(copy)
            self._make_room(0, uri, None, tally)

    def _limit(self) -> int | None:
        """Return the bytes that the files may have; None for as many as the disk holds."""
        limits = [each for each in (self.max_bytes, self._account.full_bytes()) if each is not None]
        return min(limits, default=None)

    def _count_sharing(self) -> int:
        """Return the number of processes that share the folder, as of a moment ago."""
        now_s = time.monotonic()
        if now_s >= self._sharing_until_s:
            self._sharing, self._sharing_until_s = self.pins.count_sharing(), now_s + SHARING_S
        return self._sharing

    def _stat(self, name: str) -> Copy:
        status = (self.folder / name).stat()
        return Copy(name, status.st_size, status.st_mtime_ns)

    def _unmark(self, name: str) -> None:
        self._pinned.drop(name)
        self.pins.remove(name)

    def _lose(self, name: str) -> None:
        self._unmark(name)
        for plan in self._plans:
            plan.lose(name)

    def _check_share(self, target: Path, before: float | None) -> None:
        """Raise ``NoRoomError`` if a copy that is there is beyond the share of this process."""
        if before is None or self._pinned.size_of(target.name) is not None:
            return
        with suppress(FileNotFoundError):
            if self._exceeds_share(target.stat().st_size, before):
                raise NoRoomError

    def _exceeds_share(self, size_bytes: int, before: float) -> bool:
        """Return True if the process would keep more than its share for uses before this one."""
        limit = self._limit()
        if limit is None:
            return False
        coming = sum(
            size for name, size in list(self._coming.items()) if self.next_use(name) <= before
        )
        excess = self._pinned.size_bytes + coming + size_bytes - limit // self._count_sharing()
        return excess > 0 and self._pinned.sum_beyond(before, excess) < excess

    def _make_room(self, size_bytes: int, uri: str, before: float | None, tally: Tally) -> None:
        """Delete copies until so many bytes more are within the limit; the lock is held.

        Raises:
            NoRoomError: There is no room before that use.
        """
        limit = self._limit()
        if limit is None:
            return
        if before and self._exceeds_share(size_bytes, before):
            raise NoRoomError
        while (used := self._used(tally)) + size_bytes > limit:
            if not self._give_up(uri, before, tally):
                break
        if used + size_bytes <= limit:
            return
        is_full_disk = limit != self.max_bytes
        if before is not None:
            raise FullDiskError if is_full_disk else NoRoomError
        if not is_full_disk and not self.has_warned:
            self.has_warned = True
            self.tell(
                f"--local_cache_bytes {limit} is too small for what "
                f"{self.pins.count_sharing()} processes read from {self.folder} at a time: it "
                f"holds {used + size_bytes:,} bytes, and files are fetched again and again"
            )

    def _used(self, tally: Tally) -> int:
        if tally.used_bytes is None:
            self._list_copies(tally)
        return tally.used_bytes or 0

    def _give_up(self, uri: str, before: float | None, tally: Tally) -> bool:
        """Delete the copy with the farthest next use; return False if none may be deleted.

        Of those that no plan of this process needs, the one that was used longest ago comes first.
        """
        limit = 0 if before is None else before
        while True:
            while (farthest := self._farthest()) is not None and farthest[0] > limit:
                use, copy = farthest
                is_doubtful = use < math.inf or self._next_listing_s == -math.inf
                if is_doubtful and self._may_list(before, tally):
                    break  # there may be one that is needed even less
                self._idle.drop(copy.name)
                if self._delete(copy, uri, tally):
                    return True
            if not self._may_list(before, tally):
                return False
            self._list_copies(tally)

    def _farthest(self) -> tuple[float, Copy] | None:
        found = [each for each in (self._idle.farthest(), self._pinned.farthest()) if each]
        return max(found, key=lambda each: (each[0], -each[1].used_ns), default=None)

    def _may_list(self, before: float | None, tally: Tally) -> bool:
        if tally.has_listed:  # nobody else has changed the folder since
            return False
        return not before or time.monotonic() >= self._next_listing_s

    def _delete(self, copy: Copy, uri: str, tally: Tally) -> bool:
        """Delete a copy, unless another process needs it or has used it since it was listed."""
        path = self.folder / copy.name
        index = path.with_suffix(".json")
        with self.pins.free(copy.name) as is_free:
            try:
                now = self._stat(copy.name)
            except FileNotFoundError:
                self._lose(copy.name)
                return False
            if now.used_ns > copy.used_ns and self._pinned.size_of(copy.name) is None:
                self._idle.put(now)
                return False
            if not is_free:
                if self._pinned.size_of(copy.name) is not None:
                    self._lose(copy.name)  # it stays, for those who need it sooner
                return False
            # what lies here alone is being written, or was never sent
            if not stat_objects(uri, [copy.name]):
                self._unmark(copy.name)
                return False
            # the index first: a shard without one does not exist for a reader
            for each in (index, path):
                with suppress(FileNotFoundError):
                    size_bytes = each.stat().st_size
                    each.unlink()
                    tally.add(-size_bytes)
            self._lose(copy.name)
            return True

    def _list_copies(self, tally: Tally) -> int:
        """List the files in the folder, and return their bytes; leftovers are deleted."""
        started_s = time.monotonic()
        idle, used_bytes, num_files = [], 0, 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    status, name = entry.stat(follow_symlinks=False), entry.name
                    if _is_leftover(name, status.st_mtime):
                        (self.folder / name).unlink(missing_ok=True)
                        continue
                    used_bytes, num_files = used_bytes + status.st_size, num_files + 1
                    if _is_copy(name) and self._pinned.size_of(name) is None:
                        idle.append(Copy(name, status.st_size, status.st_mtime_ns))
        self._idle.replace(idle)
        self._pinned.sort()
        tally.used_bytes, tally.has_listed = used_bytes, True
        self._account.set_counted(used_bytes, num_files)
        now_s = time.monotonic()
        self._next_listing_s = now_s + LISTING_PAUSE * (now_s - started_s)
        return used_bytes


def _is_copy(name: str) -> bool:
    """Return True for a file that is given up by itself; an index goes with its shard."""
    return not name.startswith(".") and not name.endswith(".json")


def _is_leftover(name: str, mtime_s: float) -> bool:
    """Return True for a file that a writer has left unfinished."""
    if name.startswith(EARLIER_PART):  # its name says nothing about the writer
        return is_old(mtime_s)
    return name.startswith((PART, UNFINISHED)) and is_abandoned(name, mtime_s)
