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
from pathlib import Path
from typing import Protocol

from ophnet_ray.data.cache.catalog_part import (
    CatalogedShard,
    CatalogPart,
    DamagedPartError,
    PartBuilder,
    Stamp,
    is_as_named,
    name_part,
)
from ophnet_ray.data.cache.shards import CacheEntry, ShardIndex

CATALOG = "catalog"
"""Folder of the catalog, in the folder or the bucket of the shards."""
MIN_SHARDS = 16
"""Shards that the catalog lacks, from which a part is written; fewer are read each time."""
MAX_PART_BYTES = 100_000_000

logger = logging.getLogger(__name__)


Located = tuple[CatalogedShard, CacheEntry]


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

    def find(self, keys: Iterable[str]) -> dict[str, CacheEntry]:
        """Return the entries of the keys that the catalog knows, by key.

        A few keys are searched in each part, in time proportional to their number and to that of
        the parts: one per ``MAX_PART_BYTES``, and a few smaller ones. For many keys, each part is
        read once. A shard that has changed since the catalog read its index is left to
        ``read_rest``.
        """
        return self._choose(self._search({key: key for key in keys}))

    def read_rest(self, keys: Collection[str] = ()) -> dict[str, CacheEntry]:
        """Read the shards that the catalog lacks, and add them; return what they hold of the keys.

        It lists the cache once, reads the parts to compare them with their hashes, and the indexes
        of the shards that are new. The keys are those that ``find`` has not found just before.

        Raises:
            OSError: The cache cannot be listed.
        """
        parts, known, late = self._read_parts({key: key for key in keys})
        found = self._choose(late)
        listed, stamps = self._shelf.list_shards(known - self._changed)
        gone = self._changed | (known - listed)
        builder = PartBuilder()
        try:
            for index in self._shelf.read_shards(stamps):
                self._add(builder, index, stamps[index.shard.stem])
                found |= {e.key: e for e in index.valid_entries if e.key in keys}
                if builder.size_bytes > MAX_PART_BYTES:
                    self._write(builder, (), gone)
                    builder = PartBuilder()
            if builder.num_shards >= MIN_SHARDS:
                self._write(builder, parts, gone)
        finally:
            builder.close()
        self._changed.clear()
        return found

    def update(self) -> None:
        """Add what was written since, for the next run; a failure is a warning."""
        try:
            self.read_rest()
        except OSError as error:
            self._warn_unwritten(error)

    def _add(self, builder: PartBuilder, index: ShardIndex, stamp: Stamp) -> None:
        try:
            builder.add(index, stamp)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            # its index is read each time
            logger.debug("%s does not fit the catalog: %s", index.shard, error)

    def _search(self, keys: Mapping[str, str]) -> Iterator[Located]:
        self._searched.clear()
        for path in self._fetch_parts():
            try:
                with CatalogPart(path) as part:
                    yield from part.search(keys, self._shelf.locate)
                self._searched.add(path.name)
            except (sqlite3.Error, DamagedPartError):
                self._is_whole(path)  # removes a damaged one; its keys are left to `read_rest`

    def _choose(self, located: Iterable[Located]) -> dict[str, CacheEntry]:
        """Return an entry of each key whose shard is as it was; note those that have changed."""
        shards: dict[str, CatalogedShard] = {}
        found: dict[str, CacheEntry] = {}
        others: list[Located] = []
        for shard, entry in located:
            # the same segment in two shards, or a shard in two states
            if entry.key in found or shards.setdefault(entry.path, shard) != shard:
                others.append((shard, entry))
            else:
                found[entry.key] = entry
        named = {shard.name for shard in (*shards.values(), *(shard for shard, _ in others))}
        stamps = self._shelf.stat_shards(named)
        changed = {path for path, s in shards.items() if stamps.get(s.name) != s.stamp}
        if changed:
            found = {key: entry for key, entry in found.items() if entry.path not in changed}
        for shard, entry in others:
            if entry.key not in found and stamps.get(shard.name) == shard.stamp:
                found[entry.key] = entry
        self._changed |= {shards[path].name for path in changed}
        return found

    def _read_parts(self, keys: Mapping[str, str]) -> tuple[list[Path], set[str], list[Located]]:
        """Return the whole parts, the shards that they know, and what is new in them of keys."""
        parts: list[Path] = []
        known: set[str] = set()
        late: list[Located] = []
        for path in self._fetch_parts():
            # a part that goes meanwhile counts as none: its shards are read again
            with suppress(sqlite3.Error, DamagedPartError):
                if self._is_whole(path):
                    with CatalogPart(path) as part:
                        names = {shard.name for shard in part.shards()}
                        if path.name not in self._searched:
                            # another process has read these shards since `find`
                            late += part.search(keys, self._shelf.locate)
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

    def _write(self, builder: PartBuilder, parts: Iterable[Path], gone: Collection[str]) -> None:
        """Write a part, merged with smaller ones, so that there are few parts of growing size."""
        merged = []
        for size_bytes, path in sorted(_sizes(parts)):
            if size_bytes > 2 * builder.size_bytes or (
                size_bytes + builder.size_bytes > MAX_PART_BYTES
            ):
                break
            with suppress(sqlite3.Error):  # gone meanwhile: another process has merged it
                builder.merge(path, gone)
                merged.append(path)
        try:
            content = builder.finish()
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
