"""Copies of bucket objects in a folder of this machine that holds at most so many bytes.

Processes and runs of the machine share the folder. An object is fetched by one of them, to a name
of its own that is reserved on the disk first, and gets its name when it is whole. A file that is
open stays readable even when it is deleted, as POSIX has it, and a reader that finds none fetches
it again: marks and room save time, and no result depends on them. A killed process leaves a part of
a file that the next one deletes.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ophnet_ray.storage.copy_room import PART, ROOM_LOCK, Copy, CopyRoom, NoRoomError
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

PATIENCE_S = 5.0
"""Seconds that a process waits for others to leave it room, before it takes more than there is."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """Size of an object, and name and content of the small one beside it."""

    size_bytes: int
    companion_name: str = ""
    companion: bytes = b""


class CopyFolder(CopyRoom):
    """The copies in a folder, for this process; see ``copies_in``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._facts: dict[str, _Facts] = {}

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
            NoRoomError: There is no room before that use.
            FileNotFoundError: The object does not exist.
            OSError: It cannot be fetched or written.
        """
        name = name_of(uri)
        target = self.folder / name
        if target.exists():
            self._check_share(target, before)
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.claims.hold(name):
            if not target.exists():
                if name not in self._facts:
                    self._facts[name] = _read_facts(uri, companion)
                self._download(uri, self._facts[name], before, on_room)
                del self._facts[name]
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
        part = target.with_name(f"{PART}{target.name}")
        try:
            with os.fdopen(self._reserve(part, facts, parent_of(uri), before), "wb") as copy:
                on_room()
                with (
                    in_one_line(uri),
                    filesystem_of(uri).open_input_file(bucket_path(uri)) as source,
                ):
                    shutil.copyfileobj(source, copy, COPY_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            # a listing that others make meanwhile may miss a file that is being renamed
            with exclusive(self.folder / ROOM_LOCK):
                part.replace(target)
            sync_folder(self.folder)
        except OSError as error:
            if not is_full(error):
                raise
            text = describe_full(error, self.folder)
            raise OSError(error.errno, text, str(self.folder)) from error
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, part: Path, facts: _Facts, uri: str, before: float | None) -> int:
        """Open a new file of this size; delete copies if the disk, or the limit, has no room.

        The small object beside it is written. It replaces that of a deleted copy, which may have
        been another.
        """
        size_bytes = facts.size_bytes + len(facts.companion)
        if before is None:
            self._wait_for_others(size_bytes, uri)
        with exclusive(self.folder / ROOM_LOCK):
            if self.max_bytes is not None:
                self._make_room(size_bytes, self.max_bytes, uri, before)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                self._allocate(descriptor, size_bytes, uri, before)
                os.ftruncate(descriptor, facts.size_bytes)
                if facts.companion:
                    write_atomically(self.folder / facts.companion_name, facts.companion)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _wait_for_others(self, size_bytes: int, uri: str) -> None:
        """Wait some seconds for room for what is used now: others may have more than their share.

        They notice that one more shares the folder within a second.
        """
        until_s = time.monotonic() + PATIENCE_S
        while not self.has_warned:
            try:
                self.make_room(size_bytes, uri, before=0)
            except NoRoomError:
                if time.monotonic() > until_s or self.pins.count_sharing() == 1:
                    return
                time.sleep(PATIENCE_S / 10)
            else:
                return

    def _allocate(self, descriptor: int, size_bytes: int, uri: str, before: float | None) -> None:
        """Take disk space for a file, from copies if there is none left.

        Raises:
            NoRoomError: See ``fetch``.
            OSError: The disk is full, and no copy can be deleted.
        """
        spare: Iterator[Copy] | None = None
        while (error := _take_space(descriptor, size_bytes)) is not None:
            if spare is None:
                spare = self._spare(self._list_copies(), uri, before)
            if next(spare, None) is None:
                if before is not None:
                    raise NoRoomError from error
                raise error


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
        return _Facts(status.size_bytes)
    return _Facts(status.size_bytes, name_of(companion), read_bytes(companion))


def _take_space(descriptor: int, size_bytes: int) -> OSError | None:
    """Take disk space for a file; return the error of a full disk."""
    try:
        if size_bytes:
            os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if is_full(error):
            return error
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        # a file system that cannot reserve: writing will tell
    return None


def copies_in(folder: str | Path) -> CopyFolder:
    """Return the copies in a folder: one object per process, which holds its marks."""
    return _copies_in(str(folder))


@cache
def _copies_in(folder: str) -> CopyFolder:
    return CopyFolder(Path(folder))
