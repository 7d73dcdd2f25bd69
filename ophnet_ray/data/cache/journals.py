"""Journals: the shards that each run has written, for other runs that fill the same cache."""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.storage.locks import NamedLocks

JOURNAL_AGE_S = 30 * 86_400.0
"""Age of the last line of a journal after which its run is over."""


class RunJournals:
    """The journal of a run, which its processes append to, and those of the other runs.

    A journal is a text file with one name of an index per line. A process reads each line once,
    so that the work of all tasks grows with the number of shards. To list the cache for each task
    would grow with its square. A run skips its own journal: no two of its tasks decode the same
    segment.

    Args:
        folder: Folder of the journals on this machine; created with the first line.
        locks: A file system of a network has no atomic append.
    """

    def __init__(self, folder: Path, locks: NamedLocks) -> None:
        self.folder, self._locks = folder, locks
        self.name = secrets.token_hex(8)
        # what is older, the run finds when it lists the cache at its start
        self._first_positions = dict(self._sizes())

    def append(self, name: str) -> None:
        """Add the name of an index that is on disk.

        Raises:
            OSError: The journal cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = self.folder / self.name
        with self._locks.hold(f"journal-{self.name}"), journal.open("ab", buffering=0) as file:
            file.write(f"{name}\n".encode())

    def read_new(self, positions: dict[str, int]) -> Iterator[str]:
        """Yield the names that other runs have added since the positions; advance these.

        Args:
            positions: Bytes read of each journal; empty before the first call.
        """
        for journal, size_bytes in self._sizes():
            first = positions.get(journal, self._first_positions.get(journal, 0))
            if journal == self.name or size_bytes == first:
                continue
            if size_bytes < first:
                first = 0  # removed for its age, and begun again
            is_gone_or_private = suppress(FileNotFoundError, PermissionError)
            with is_gone_or_private, (self.folder / journal).open("rb") as file:
                file.seek(first)
                whole_lines, end, _ = file.read().rpartition(b"\n")
                positions[journal] = first + len(whole_lines) + len(end)
                yield from whole_lines.decode().split()

    def remove_old(self) -> None:
        """Remove the journals of runs that are over; another user's may stay."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError, PermissionError):
                    if time.time() - path.stat().st_mtime > JOURNAL_AGE_S:
                        path.unlink()

    def _sizes(self) -> Iterator[tuple[str, int]]:
        with suppress(FileNotFoundError), os.scandir(self.folder) as journals:
            for journal in journals:
                with suppress(FileNotFoundError):
                    yield journal.name, journal.stat().st_size


@dataclass
class OtherRuns:
    """Shards that other runs have written since that of this process began.

    Attributes:
        lock: Held while the other fields change: tasks may be threads.
        positions: Bytes read of each journal.
        listed: Names of the indexes read from a bucket.
        next_listing_s: Time of the monotonic clock before which a bucket is not listed again.
        entries: The entries found, by key.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    positions: dict[str, int] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    next_listing_s: float = 0.0
    entries: dict[str, CacheEntry] = field(default_factory=dict)


@lru_cache(maxsize=8)
def other_runs_of(journal: str) -> OtherRuns:  # noqa: ARG001 - the memo's key
    """Return what this process knows, for all tasks of the run with this journal.

    Each task unpickles a cache object of its own.
    """
    return OtherRuns()
