"""Shards of a bucket, fetched to this machine ahead of the steps that read them, in their order.

The steps of an epoch are known some ten thousand windows before they are read. Threads fetch the
shards of the nearest steps first. Where the folder of copies has a limit, the shard with the
farthest next use makes room (Belady, 1966), and what would be read later than that waits: a step
that is being read never waits for one that is not.
"""

import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from ophnet_ray.storage.copy_folder import copies_in
from ophnet_ray.storage.copy_room import FullDiskError, NoRoomError
from ophnet_ray.storage.paths import join, name_of, parent_of

T = TypeVar("T")

HORIZON_WINDOWS = 16_384
"""Windows whose shards are known before they are read."""
FETCH_THREADS = 8
PAUSE_S = 1.0
"""Seconds after which threads look again for room, which other processes may have made."""
QUIET_S = 60.0
"""Seconds without a second warning."""

logger = logging.getLogger(__name__)


class SharedShard(NamedTuple):
    """Path of a shard on this machine, and its URI in a bucket."""

    path: str
    source: str


def fetch_shard(
    path: str,
    source: str,
    *,
    before: float | None = None,
    on_room: Callable[[], None] = lambda: None,
) -> None:
    """Fetch a shard and its index unless the shard is there.

    Args:
        path: Path on this machine.
        source: URI.
        before: See ``CopyFolder.fetch``.
        on_room: See there.

    Raises:
        NoRoomError: There is no room before that use.
        OSError: It cannot be fetched or written.
    """
    # `cache --list` and `--prune` look for the index on this machine
    index = join(parent_of(source), f"{name_of(source).removesuffix('.arrow')}.json")
    copies_in(Path(path).parent).fetch(source, index, before=before, on_room=on_room)


class ReadAhead:
    """Shards of the steps of an epoch: fetched before they are read, kept until they were read."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._steps: dict[int, tuple[SharedShard, ...]] = {}
        self._uses: dict[str, deque[int]] = {}
        self._sources: dict[str, str] = {}
        self._wanted: list[tuple[int, str]] = []
        self._ready: set[str] = set()
        self._failed: set[str] = set()
        self._begun = -1
        self._full_until_s = self._quiet_until_s = 0.0
        self._is_probing = self._is_closed = False
        self._plans: dict[str, _FolderPlan] = {}
        self._threads = [
            threading.Thread(target=self._fetch_all, name=f"fetch-shards-{i}", daemon=True)
            for i in range(FETCH_THREADS)
        ]
        self._threads.append(threading.Thread(target=self._shed, name="shed-shards", daemon=True))

    def __enter__(self) -> Self:
        """Begin to fetch what will be announced."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, once the shards that are being fetched are whole."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            left = list(self._uses)
            self._uses.clear()
        for path in left:
            _unpin(path)
        for folder, plan in self._plans.items():
            copies_in(folder).end(plan)

    def announce(
        self, steps: Iterator[T], shards_of: Callable[[T], Sequence[SharedShard]], num_steps: int
    ) -> Iterator[T]:
        """Yield steps, each some steps after its shards have become known.

        Args:
            steps: Steps of an epoch; their numbers in ``reading`` count from 0.
            shards_of: Returns the distinct shards of a step.
            num_steps: Steps that are known before they are read.
        """
        known: deque[T] = deque()
        for number, step in enumerate(steps):
            self._plan(number, tuple(shards_of(step)))
            known.append(step)
            if len(known) > num_steps:
                yield known.popleft()
        yield from known

    @contextmanager
    def reading(self, number: int) -> Iterator[None]:
        """Wait until the shards of a step are here, and keep them while they are read.

        Raises:
            OSError: A shard cannot be fetched or written.
        """
        with self._changed:
            shards = self._steps[number]
            self._begun = max(self._begun, number)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: all(
                    each.path in self._ready or each.path in self._failed for each in shards
                )
            )
            failed = [each for each in shards if each.path in self._failed]
        try:
            for each in failed:
                with suppress(FullDiskError):  # its windows are read in the bucket
                    fetch_shard(*each)  # once more, for the error
                    self._keep_retried(each.path)
            yield
        finally:
            self._finish(number)

    def next_use(self, path: str) -> float:
        """Return the steps from the one being read to the next that reads a shard, or infinity."""
        with self._changed:
            uses = self._uses.get(path)
            return uses[0] - self._begun if uses else math.inf

    def lose(self, path: str) -> None:
        """Fetch a shard again in its turn: its room was needed for others."""
        with self._changed:
            if path in self._ready:
                self._ready.remove(path)
                if path not in self._uses:  # closed
                    return
                heapq.heappush(self._wanted, (self._uses[path][0], path))

    def _plan(self, number: int, shards: tuple[SharedShard, ...]) -> None:
        for each in shards:
            folder = parent_of(each.path)
            if folder not in self._plans:
                plan = _FolderPlan(self, folder)
                copies_in(folder).begin(plan)
                self._plans[folder] = plan
        with self._changed:
            self._steps[number] = shards
            for path, source in shards:
                if path not in self._uses:
                    self._uses[path] = deque()
                    self._sources[path] = source
                    heapq.heappush(self._wanted, (number, path))
                self._uses[path].append(number)
            self._changed.notify_all()

    def _finish(self, number: int) -> None:
        """Forget a step; shards that no known step reads may be deleted."""
        spare, kept = [], []
        with self._changed:
            for path, _ in self._steps.pop(number):
                uses = self._uses.get(path)
                if uses is None:  # closed
                    continue
                uses.remove(number)
                if uses:
                    kept.append(path)
                else:
                    del self._uses[path], self._sources[path]
                    self._ready.discard(path)
                    self._failed.discard(path)
                    spare.append(path)
            if spare:
                self._full_until_s = min(self._full_until_s, time.monotonic())
                self._changed.notify_all()
        for path in kept:
            copies_in(parent_of(path)).move(name_of(path))
        for path in spare:
            _unpin(path)

    def _shed(self) -> None:
        """Leave other processes their share of the room, however many there are now."""
        while not self._is_closed:
            for folder in list(self._plans):
                copies_in(folder).shed()
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, PAUSE_S)

    def _fetch_all(self) -> None:
        while (wanted := self._take_wanted()) is not None:
            use, path, source = wanted
            try:
                before = None if use <= self._begun else use - self._begun
                fetch_shard(path, source, before=before, on_room=self._end_probe)
                is_here = copies_in(parent_of(path)).pin(name_of(path))
            except FullDiskError:
                self._put_off(path, use)
            except NoRoomError:
                self._give_back(path, is_full=True)
            except Exception:
                # a thread that ended would let the step that reads it wait for ever
                if self._may_warn():
                    logger.warning("%s cannot be fetched now", path, exc_info=True)
                self._put_off(path, use)
            else:
                if is_here:
                    self._set_fetched(path, self._ready)
                else:
                    self._give_back(path, is_full=False)  # deleted between the two

    def _take_wanted(self) -> tuple[int, str, str] | None:
        """Wait for the shard that is needed next and may be fetched; None at the end."""
        with self._changed:
            while not self._is_closed:
                while self._wanted and self._wanted[0][1] not in self._uses:
                    heapq.heappop(self._wanted)
                now_s = time.monotonic()
                is_full = now_s < self._full_until_s or self._is_probing
                if self._wanted and (not is_full or self._wanted[0][0] <= self._begun):
                    use, path = heapq.heappop(self._wanted)
                    # once there was no room, one thread at a time looks for some
                    self._is_probing = self._full_until_s > 0 and use > self._begun
                    return use, path, self._sources[path]
                self._changed.wait(PAUSE_S if self._wanted else None)
            return None

    def _end_probe(self) -> None:
        with self._changed:
            self._is_probing = False
            self._changed.notify_all()

    def _give_back(self, path: str, *, is_full: bool) -> None:
        with self._changed:
            self._is_probing = False
            if path in self._uses:
                heapq.heappush(self._wanted, (self._uses[path][0], path))
            if is_full:
                self._full_until_s = time.monotonic() + PAUSE_S
            self._changed.notify_all()

    def _may_warn(self) -> bool:
        """Return True once in a while: all threads fail while a bucket does not answer."""
        with self._changed:
            now_s = time.monotonic()
            if now_s < self._quiet_until_s:
                return False
            self._quiet_until_s = now_s + QUIET_S
            return True

    def _put_off(self, path: str, use: int) -> None:
        """Try a shard again after a pause; one that is read now is tried by the step itself."""
        with self._changed:
            is_read_now = use <= self._begun
        if is_read_now:
            self._set_fetched(path, self._failed)
        else:
            self._give_back(path, is_full=True)

    def _keep_retried(self, path: str) -> None:
        """Keep a shard that its step has fetched itself, as those that were fetched ahead."""
        if copies_in(parent_of(path)).pin(name_of(path)):
            with self._changed:
                self._failed.discard(path)
            self._set_fetched(path, self._ready)

    def _set_fetched(self, path: str, where: set[str]) -> None:
        with self._changed:
            self._is_probing = False
            is_needed = path in self._uses
            if is_needed:
                where.add(path)
            self._changed.notify_all()
        if not is_needed:
            _unpin(path)


@dataclass(frozen=True)
class _FolderPlan:
    """The part of a plan that concerns a folder, see ``copy_room.Plan``."""

    ahead: ReadAhead
    folder: str

    def next_use(self, name: str) -> float:
        return self.ahead.next_use(f"{self.folder}/{name}")

    def lose(self, name: str) -> None:
        self.ahead.lose(f"{self.folder}/{name}")


def _unpin(path: str) -> None:
    copies_in(parent_of(path)).unpin(name_of(path))
