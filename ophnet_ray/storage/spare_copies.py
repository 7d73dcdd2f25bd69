"""Order in which a process gives copies up: what it needs last first, then what is oldest.

Each question costs what has changed since, not what is there: a heap is mended where it is asked.
"""

import heapq
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_Key = tuple[float, int, str]


@dataclass(frozen=True, slots=True)
class Copy:
    """A file in the folder."""

    name: str
    size_bytes: int
    used_ns: int


class SpareCopies:
    """Copies, ordered by the farthest next use, then by the time of the last one.

    Args:
        next_use: Returns the steps until the next use of a copy. A use that comes nearer is noticed
            when the copy is asked for; one that moves away must be told with ``move``.
    """

    def __init__(self, next_use: Callable[[str], float]) -> None:
        self._next_use = next_use
        self._guard = threading.RLock()
        self._copies: dict[str, Copy] = {}
        self._heap: list[_Key] = []
        self.size_bytes = 0

    def replace(self, copies: Iterable[Copy]) -> None:
        """Forget all copies, and take these."""
        with self._guard:
            self._copies = {copy.name: copy for copy in copies}
            self.size_bytes = sum(copy.size_bytes for copy in self._copies.values())
            self.sort()

    def put(self, copy: Copy) -> None:
        """Add a copy, or tell that it was used."""
        with self._guard:
            self.drop(copy.name)
            self._copies[copy.name] = copy
            self.size_bytes += copy.size_bytes
            heapq.heappush(self._heap, self._key_of(copy))
            if len(self._heap) > 4 * len(self._copies) + 64:
                self.sort()

    def move(self, name: str) -> None:
        """Tell that a copy, if it is known, is needed later than before."""
        with self._guard:
            if (copy := self._copies.get(name)) is not None:
                self.put(copy)

    def sort(self) -> None:
        """Ask for the next use of all copies."""
        with self._guard:
            self._heap = [self._key_of(copy) for copy in self._copies.values()]
            heapq.heapify(self._heap)

    def drop(self, name: str) -> None:
        """Forget a copy, if it is known."""
        with self._guard:
            if (copy := self._copies.pop(name, None)) is not None:
                self.size_bytes -= copy.size_bytes

    def size_of(self, name: str) -> int | None:
        """Return the bytes of a copy; None if it is not known."""
        with self._guard:
            copy = self._copies.get(name)
            return None if copy is None else copy.size_bytes

    def farthest(self) -> tuple[float, Copy] | None:
        """Return the steps until the farthest next use, and the copy; None without copies."""
        with self._guard:
            while self._heap:
                copy = self._copies.get(self._heap[0][2])
                if copy is None:
                    heapq.heappop(self._heap)
                    continue
                key = self._key_of(copy)
                if key > self._heap[0]:  # needed sooner, or used since
                    heapq.heapreplace(self._heap, key)
                else:
                    return -key[0], copy
            return None

    def sum_beyond(self, use: float, enough_bytes: int) -> int:
        """Return the bytes of the copies that are needed later; stop counting once it is enough."""
        with self._guard:
            beyond: list[Copy] = []
            total = 0
            while total < enough_bytes and (found := self.farthest()) and found[0] > use:
                beyond.append(found[1])
                total += found[1].size_bytes
                self.drop(found[1].name)
            for copy in beyond:
                self.put(copy)
            return total

    def _key_of(self, copy: Copy) -> _Key:
        return -self._next_use(copy.name), copy.used_ns, copy.name
