"""Copies of bucket objects in a folder of this machine that holds at most so many bytes.

Processes and runs of the machine share the folder. An object is fetched by one of them, to a name
of its own that is reserved on the disk first, and gets its name when it is whole. A file that is
open stays readable even when it is deleted, as POSIX has it, and a reader that finds none fetches
it again: marks and room save time, and no result depends on them. A killed process leaves a part of
a file under a name that no other one uses; those who list the folder delete it.
"""

import errno
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ophnet_ray.storage.copy_room import (
    PART,
    ROOM_LOCK,
    SHARING_S,
    CopyRoom,
    FullDiskError,
    NoRoomError,
)
from ophnet_ray.storage.files import (
    COPY_BYTES,
    describe_full,
    is_full,
    read_bytes,
    stat_objects,
    sync_folder,
    write_atomically,
)
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import bucket_path, name_of, parent_of, plain_uri
from ophnet_ray.storage.room_account import Tally
from ophnet_ray.storage.unfinished import unfinished_name

PATIENCE_S = 5.0
"""Seconds that a process waits for others to leave it room, before it takes more than there is."""
FULL_CURE = "free some space there, or give a --local_cache_dir on a larger disk"
CROWDED_S = 30.0
"""Seconds for which it does not wait again on a full disk where nobody left room, and tries seldom.
"""


@dataclass(frozen=True, slots=True)
class _Facts:
    """Name and size of an object, and name and content of the small one beside it."""

    name: str
    size_bytes: int
    companion_name: str = ""
    companion: bytes = b""

    @property
    def num_bytes(self) -> int:
        """Bytes of both objects."""
        return self.size_bytes + len(self.companion)


class CopyFolder(CopyRoom):
    """The copies in a folder, for this process; see ``copies_in``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.has_told_full = False
        self._facts: dict[str, _Facts] = {}
        self._crowded_until_s = self._next_try_s = -math.inf
        self._crowded_bytes = 0

    def fetch(
        self,
        uri: str,
        companion: str = "",
        *,
        before: float | None = None,
        on_room: Callable[[], None] = lambda: None,
    ) -> Path:
        """Fetch an object unless it is there; of several processes, one fetches it.

        Args:
            uri: The object.
            companion: Small object beside it that is fetched and deleted with it.
            before: Steps until the use for which the object is fetched ahead: only what is used
                later makes room. None: it is used now, and fetched even beyond ``max_bytes``.
            on_room: Called when there is room for it, before the bytes come.

        Raises:
            NoRoomError: There is no room before that use; for what is used now only
                ``FullDiskError``.
            FileNotFoundError: The object does not exist.
            OSError: It cannot be fetched or written, e.g. the disk is too small for it.
        """
        name = name_of(uri)
        target = self.folder / name
        if target.exists():
            self._check_share(target, before)
            return target
        if before is None and self._is_crowded():
            raise FullDiskError
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.claims.hold(name):
            if not target.exists():
                facts = self._facts.pop(name, None) or _read_facts(uri, companion)
                try:
                    self._download(uri, facts, before, on_room)
                except NoRoomError:
                    self._facts[name] = facts  # for the next attempt, once there is room
                    raise
        return target

    def _download(
        self, uri: str, facts: _Facts, before: float | None, on_room: Callable[[], None]
    ) -> None:
        """Fetch an object into the room that is made for it; the claim of its name is held.

        Raises:
            NoRoomError: See ``fetch``.
            OSError: See there.
        """
        target = self.folder / name_of(uri)
        part = target.with_name(unfinished_name(PART))
        try:
            with os.fdopen(self._reserve(part, facts, parent_of(uri), before), "wb") as copy:
                on_room()
                with (
                    in_one_line(uri),
                    filesystem_of(uri).open_input_file(bucket_path(uri)) as source,
                ):
                    shutil.copyfileobj(source, copy, COPY_BYTES)
                if copy.tell() != facts.size_bytes:
                    raise OSError(
                        f"{plain_uri(uri)} ended after {copy.tell():,} of {facts.size_bytes:,} "
                        "bytes: it was replaced, or the bucket broke off"
                    )
                copy.flush()
                os.fsync(copy.fileno())
            # a listing that others make meanwhile may miss a file that is being renamed
            with exclusive(self.folder / ROOM_LOCK), self._account.changing() as tally:
                tally.add(-_size_of(target))
                part.replace(target)
            sync_folder(self.folder)
        except OSError as error:
            if not is_full(error) or error.filename == str(self.folder):
                raise
            raise _describe_full(error, self.folder) from error
        finally:
            self._coming.pop(target.name, None)
            if part.exists():
                with exclusive(self.folder / ROOM_LOCK), self._account.changing() as tally:
                    tally.add(-_size_of(part))
                    part.unlink(missing_ok=True)

    def _reserve(self, part: Path, facts: _Facts, uri: str, before: float | None) -> int:
        """Open a new file of this size in the room that is made for it; see ``_open_part``.

        What is used now waits some seconds for room: others may have more than their share. They
        notice that one more shares the folder, or that the disk is full, within a second.
        """
        if before is not None:
            return self._open_part(part, facts, uri, before)
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() >= self._crowded_until_s:
            try:
                return self._open_part(part, facts, uri, 0)
            except FullDiskError:
                may_wait = True
            except NoRoomError:
                may_wait = not self.has_warned
            # what this process itself is fetching for later can be deleted once it is whole
            is_alone = not self._coming and self.pins.count_sharing() == 1
            if not may_wait or is_alone or time.monotonic() > until_s:
                break
            time.sleep(PATIENCE_S / 10)
        try:
            descriptor = self._open_part(part, facts, uri, None)
        except FullDiskError:
            now_s = time.monotonic()
            self._crowded_until_s, self._next_try_s = now_s + CROWDED_S, now_s + SHARING_S
            self._crowded_bytes = self._account.used_bytes()
            if not self.has_told_full:
                self.has_told_full = True
                self.tell(
                    f"{self.folder}: the disk is full of files that are read now "
                    f"({shutil.disk_usage(self.folder).free:,} bytes are free): others are read in "
                    f"the bucket, window by window; {FULL_CURE}"
                )
            raise
        self._next_try_s = -math.inf
        return descriptor

    def _is_crowded(self) -> bool:
        """Return True on a disk that was full of files in use, unless it is time to try again.

        It is tried once in ``SHARING_S``, and when files were deleted: each attempt lists the
        folder, and each window that is read in the bucket asks.
        """
        now_s = time.monotonic()
        if now_s >= self._crowded_until_s:
            return False
        if now_s < self._next_try_s and self._account.used_bytes() >= self._crowded_bytes:
            return True
        self._next_try_s = now_s + SHARING_S
        return False

    def _open_part(self, part: Path, facts: _Facts, uri: str, before: float | None) -> int:
        """Open a new file of this size; delete copies if the disk, or the limit, has no room.

        The small object beside it is written. It replaces that of a deleted copy, which may have
        been another.

        Raises:
            NoRoomError: See ``fetch``.
            OSError: See there.
        """
        with exclusive(self.folder / ROOM_LOCK), self._account.changing() as tally:
            self._make_room(facts.num_bytes, uri, before, tally)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                while (error := _take_space(descriptor, facts.num_bytes)) is not None:
                    self._give_way(error, facts.num_bytes, uri, before, tally)
                os.ftruncate(descriptor, facts.size_bytes)
                tally.add(facts.size_bytes)
                # the disk gives whole blocks: there may be none for the small one
                while (error := self._write_companion(facts, tally)) is not None:
                    self._give_way(error, facts.num_bytes, uri, before, tally)
            except BaseException:
                os.close(descriptor)
                tally.add(-_size_of(part))
                part.unlink()
                raise
            self._coming[facts.name] = facts.num_bytes
            return descriptor

    def _write_companion(self, facts: _Facts, tally: Tally) -> OSError | None:
        """Write the small object, if there is one; return the error of a full disk."""
        if not facts.companion:
            return None
        path = self.folder / facts.companion_name
        old_bytes = _size_of(path)
        try:
            write_atomically(path, facts.companion)
        except OSError as error:
            if not is_full(error):
                raise
            return error.__cause__ if isinstance(error.__cause__, OSError) else error
        tally.add(len(facts.companion) - old_bytes)
        return None

    def _give_way(
        self, error: OSError, need_bytes: int, uri: str, before: float | None, tally: Tally
    ) -> None:
        """Delete a copy for a file for which the disk had no space.

        Raises:
            FullDiskError: No copy may be deleted.
            OSError: The disk is too small for the file even without copies.
        """
        room_bytes = self._used(tally) + shutil.disk_usage(self.folder).free
        if room_bytes < need_bytes:
            raise _describe_full(error, self.folder) from error
        self._account.set_full(room_bytes)
        if before and self._exceeds_share(need_bytes, before):
            raise FullDiskError from error
        if not self._give_up(uri, before, tally):
            raise FullDiskError from error


def _read_facts(uri: str, companion: str) -> _Facts:
    """Ask a bucket for what must be known of an object before there is room for it.

    Raises:
        FileNotFoundError: One of the objects does not exist.
        StorageError: The bucket does not answer.
    """
    name = name_of(uri)
    status = stat_objects(parent_of(uri), [name]).get(name)
    if status is None:
        raise FileNotFoundError(f"{plain_uri(uri)} does not exist")
    if not companion:
        return _Facts(name, status.size_bytes)
    return _Facts(name, status.size_bytes, name_of(companion), read_bytes(companion))


def _take_space(descriptor: int, size_bytes: int) -> OSError | None:
    """Take disk space for a file; return the error of a full disk."""
    try:
        if size_bytes:
            os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if is_full(error):
            os.ftruncate(descriptor, 0)
            return error
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        # a file system that cannot reserve: writing will tell
    return None


def _size_of(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _describe_full(error: OSError, folder: Path) -> OSError:
    """Return the error of a full disk with the bytes that are free, and the cure."""
    text = f"{describe_full(error, folder)}; {FULL_CURE}"
    return OSError(error.errno, text, str(folder))


def copies_in(folder: str | Path) -> CopyFolder:
    """Return the copies in a folder: one object per process, which holds its marks."""
    return _copies_in(str(folder))


@cache
def _copies_in(folder: str) -> CopyFolder:
    return CopyFolder(Path(folder))
