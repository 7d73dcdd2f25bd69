"""Catalog of a cache: the shard of each key, in few files that are searched by key.

The JSON index beside each shard stays the only truth. The catalog repeats the indexes, so that a
run need not read all of them, and is written anew from them wherever it lacks one or is damaged.

A part of the catalog is never changed. Two processes that add one simultaneously do not hinder each
other; parts that tell the same twice do no harm. Small parts are merged into larger ones: the new
one is whole before the old ones go. A process that is killed at any moment leaves a catalog that
tells less, or something twice.

It is optional: a part that cannot be read counts as none, one that cannot be written is left out,
and both are named in a warning.
"""

import io
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ophnet_ray.data.cache.catalog_part import (
    DamagedPartError,
    dump_part,
    is_as_named,
    name_part,
    open_part,
)
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.part_columns import Matches, PartBuilder, PartColumns, Stamp
from ophnet_ray.data.cache.shards import ShardIndex

CATALOG = "catalog"
"""Folder of the catalog, in the folder or the bucket of the shards."""
MIN_SHARDS = 16
"""Shards that the catalog lacks, from which a part is written; fewer are read each time."""
MAX_PART_BYTES = 100_000_000

logger = logging.getLogger(__name__)


class Shelf(Protocol):
    """A folder or a bucket of shards. Shards go by their names without a suffix."""

    def list_shards(self, known: Collection[str]) -> tuple[set[str], dict[str, Stamp]]:
        """Return the shards that have an index, and the state of those that are not known."""

    def stat_shards(self, names: Collection[str]) -> dict[str, Stamp]:
        """Return the state of some shards; those that are not there are left out."""

    def read_shards(self, stamps: Mapping[str, Stamp]) -> Iterator[ShardIndex]:
        """Read the indexes of shards in a state, except those that are not whole."""

    def locate(self, name: str) -> tuple[str, str]:
        """Return the path of a shard on this machine, and its URI in a bucket or an empty text."""

    def fetch_parts(self) -> list[Path]:
        """Return the parts of the catalog, as files of this machine."""

    def renew_part(self, name: str) -> bool:
        """Fetch a damaged copy of a part again; return False if the part is no copy."""

    def add_part(self, name: str, content: bytes) -> None:
        """Write a part of the catalog."""

    def remove_part(self, name: str) -> None:
        """Delete a part of the catalog; it may be gone."""


class Catalog:
    """Search of a cache by key.

    Args:
        shelf: The shards.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._searched: set[str] = set()
        self._changed: set[str] = set()
        self._named: set[str] = set()

    def find(self, keys: KeyColumns) -> CacheEntries:
        """Return the entry of each key that the catalog knows, in the order of the keys.

        A few keys are searched in each part, in time proportional to their number and to that of
        the parts: one per ``MAX_PART_BYTES``, and a few smaller ones. For many keys, each part is
        read once. A shard that has changed since the catalog read its index is left to
        ``read_rest``.
        """
        return self._choose(self._search(KeyJoin(keys)), len(keys))

    def read_rest(self, keys: KeyColumns) -> CacheEntries:
        """Read the shards that the catalog lacks, and add them; return what they hold of the keys.

        It lists the cache once, reads the parts to compare them with their hashes, and the indexes
        of the shards that are new. The keys are those that ``find`` has not found just before.

        Raises:
            OSError: The cache cannot be listed.
        """
        join = KeyJoin(keys)
        parts, known, late = self._read_parts(join)
        found = self._choose(late, len(keys))
        listed, stamps = self._shelf.list_shards(known - self._changed)
        gone = self._changed | (known - listed)
        builder = PartBuilder()
        for index in self._shelf.read_shards(stamps):
            self._add(builder, index, stamps[index.shard.stem])
            if builder.size_bytes > MAX_PART_BYTES:
                found = self._keep(builder.finish(), (), gone, join, found)
        found = self._keep(builder.finish(), parts, gone, join, found)
        self._changed.clear()
        return found

    def update(self) -> None:
        """Add what was written since, for the next run; a failure is a warning."""
        try:
            self.read_rest(KeyColumns.of_texts(()))
        except OSError as error:
            self._warn_unwritten(error)

    def _add(self, builder: PartBuilder, index: ShardIndex, stamp: Stamp) -> None:
        try:
            builder.add(index, stamp)
        except (ValueError, OverflowError, TypeError) as error:
            logger.warning(
                "%s cannot be used (%r); its segments are decoded again", index.shard, error
            )

    def _keep(
        self,
        part: PartColumns,
        parts: Iterable[Path],
        gone: Collection[str],
        join: KeyJoin,
        found: CacheEntries,
    ) -> CacheEntries:
        """Write a part that was just read, see ``_write``; return ``_take_in``."""
        found = self._take_in(part, join, found)
        if len(part.shards) >= MIN_SHARDS:
            self._write(part, parts, gone)
        return found

    def _take_in(self, part: PartColumns, join: KeyJoin, found: CacheEntries) -> CacheEntries:
        """Return what was found, and what a part that was just read holds of the other keys."""
        for matches in part.search(join):
            chosen = np.flatnonzero(~found.is_there[matches.rows])
            entries = self._locate(matches).take(chosen).compact()
            found = found.replace_rows(matches.rows[chosen], entries)
        return found

    def _search(self, join: KeyJoin) -> Iterator[Matches]:
        self._searched.clear()
        for path in self._fetch_parts():
            try:
                with open_part(path) as part:
                    yield from part.search(join)
                self._searched.add(path.name)
            except DamagedPartError:
                self._is_whole(path)  # removes a damaged one; its keys are left to `read_rest`

    def _choose(self, found: Iterable[Matches], num_keys: int) -> CacheEntries:
        """Return an entry of each key whose shard is as it was; note the shards that changed."""
        matches = list(found)
        used = [
            [match.shards[number] for number in np.unique(match.entries.shards).tolist()]
            for match in matches
        ]
        stamps = self._shelf.stat_shards({shard.name for shards in used for shard in shards})
        right = {s.name for shards in used for s in shards if stamps.get(s.name) == s.stamp}
        self._changed |= {s.name for shards in used for s in shards if s.name not in right}
        # the same segment may be in two shards, and a shard in two states
        chosen, parts, num_before = np.full(num_keys, -1), [], 0
        for match in matches:
            is_right = np.asarray(
                [stamps.get(shard.name) == shard.stamp for shard in match.shards], dtype=np.bool_
            )
            is_new = is_right[match.entries.shards] & (chosen[match.rows] < 0)
            kept = np.flatnonzero(is_new)
            chosen[match.rows[kept]] = num_before + np.arange(len(kept))
            num_before += len(kept)
            entries = match.entries if is_new.all() else match.entries.take(kept).compact()
            parts.append(self._locate(replace(match, entries=entries)))
        return CacheEntries.join(parts).take_known(chosen)

    def _locate(self, matches: Matches) -> CacheEntries:
        """Return the entries with the places of their shards."""
        used, numbers = np.unique(matches.entries.shards, return_inverse=True)
        places = [self._shelf.locate(matches.shards[number].name) for number in used.tolist()]
        return replace(matches.entries, shards=numbers.astype(np.int32), places=tuple(places))

    def _read_parts(self, join: KeyJoin) -> tuple[list[Path], set[str], list[Matches]]:
        """Return the whole parts, the shards that they know, and what is new in them of keys."""
        parts: list[Path] = []
        known: set[str] = set()
        late: list[Matches] = []
        for path in self._fetch_parts():
            # a part that goes meanwhile counts as none: its shards are read again
            with suppress(DamagedPartError):
                if self._is_whole(path):
                    with open_part(path) as part:
                        names = {shard.name for shard in part.shards()}
                        if path.name not in self._searched:
                            # another process has read these shards since `find`
                            late += part.search(join)
                    known |= names
                    parts.append(path)
        return parts, known, late

    def _fetch_parts(self) -> list[Path]:
        try:
            return self._shelf.fetch_parts()
        except OSError as error:
            self._warn_unread("the catalog of the cache", error)
            return []

    def _is_whole(self, path: Path) -> bool:
        """Compare a part with the hash in its name; remove a damaged one.

        A damaged copy of a bucket's part is fetched again before. One that cannot be read is left
        as it is: another user may read it.
        """
        try:
            if is_as_named(path) or (self._shelf.renew_part(path.name) and is_as_named(path)):
                return True
        except FileNotFoundError:
            return False  # another process has merged it
        except OSError as error:
            self._warn_unread(str(path), error)
            return False
        logger.warning("%s is damaged; it is written anew from the indexes of the shards", path)
        self._remove([path])
        return False

    def _write(self, part: PartColumns, parts: Iterable[Path], gone: Collection[str]) -> None:
        """Write a part, merged with smaller ones, so that there are few parts of growing size."""
        merged = []
        for size_bytes, path in sorted(_sizes(parts)):
            if size_bytes > 2 * part.size_bytes or size_bytes + part.size_bytes > MAX_PART_BYTES:
                break
            # gone meanwhile: another process has merged it
            with suppress(DamagedPartError), open_part(path) as smaller:
                part = part.join(smaller.read().leave_out(gone))
                merged.append(path)
        try:
            content = dump_part(part)
            name = name_part(io.BytesIO(content))
            self._shelf.add_part(name, content)
        except (OSError, sqlite3.Error) as error:
            self._warn_unwritten(error)
            return
        self._remove(path for path in merged if path.name != name)

    def _remove(self, parts: Iterable[Path]) -> None:
        for path in parts:
            try:
                self._shelf.remove_part(path.name)
            except OSError as error:
                logger.warning("%s cannot be removed: %s", path, error)

    def _warn_unread(self, what: str, error: OSError) -> None:
        self._warn(f"{what} cannot be read ({error}); the indexes of the shards are read instead")

    def _warn_unwritten(self, error: Exception) -> None:
        self._warn(f"the catalog of the cache cannot be written: {error}")

    def _warn(self, text: str) -> None:
        """Log a warning once: one run searches several times."""
        if text not in self._named:
            self._named.add(text)
            logger.warning("%s", text)


def _sizes(parts: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    for path in parts:
        with suppress(OSError):
            yield path.stat().st_size, path
