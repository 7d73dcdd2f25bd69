"""One file of the catalog: entries of many shards, found by key; written once, never changed.

It is a SQLite database without a writer, so that no lock is needed on any file system. Its name is
a hash of its content. The entries lie in chunks, in the order of their keys, as columns; each chunk
has a checksum of its own: a small search need not read the whole file to trust what it finds.
"""

import hashlib
import io
import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ophnet_ray.data.cache.entries import CacheEntries, EntryKind
from ophnet_ray.data.cache.key_columns import KEY_TYPE, KeyColumns, KeyJoin
from ophnet_ray.data.cache.part_columns import CatalogedShard, Matches, PartColumns, Stamp

SUFFIX = ".v4.sqlite"
CHUNK_ENTRIES = 512
"""Entries of a chunk, some 33 kB."""
SCAN_SHARE = 4
"""Chunks of a file per key, from which it is read from end to end."""
_ROW_TYPE = np.dtype([*KEY_TYPE.descr, ("shard", "<i4"), ("kind", "<i4"), ("offset", "<i8")])
_SCHEMA = """
CREATE TABLE shards (
    id INTEGER PRIMARY KEY, name TEXT, size_bytes INTEGER, index_bytes INTEGER,
    mtime_ns INTEGER, codec TEXT, crc INTEGER
);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, fields BLOB, crc INTEGER);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, entries BLOB, checksums BLOB, crc INTEGER);
CREATE TABLE first_keys (keys BLOB, crc INTEGER);
"""
# by name: a damaged schema may have other columns
_SHARDS = "SELECT id, name, size_bytes, index_bytes, mtime_ns, codec, crc FROM shards"
_CHUNKS = "SELECT id, entries, checksums, crc FROM chunks"


class DamagedPartError(Exception):
    """A part that is gone, or does not hold what was written to it."""


def dump_part(part: PartColumns) -> bytes:
    """Return the content of the file of a part."""
    checksums = part.entries.join_checksums()
    stops = np.concatenate([[0], np.cumsum(part.entries.count_blocks())])
    # this file system holds a database in one piece, which `serialize` need not copy twice
    with closing(sqlite3.connect("file:part?vfs=memdb", uri=True)) as db:
        db.executescript(_SCHEMA)
        for number, shard in enumerate(part.shards):
            values = (number, shard.name, *shard.stamp, shard.codec, shard.crc)
            db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        for number, kind in enumerate(part.entries.known_kinds):
            fields = _dump_kind(kind)
            crc = zlib.crc32(fields, number)
            db.execute("INSERT INTO kinds VALUES (?, ?, ?)", (number, fields, crc))
        for number, first in enumerate(range(0, len(part.keys), CHUNK_ENTRIES)):
            chunk = slice(first, first + CHUNK_ENTRIES)
            own = checksums[stops[first] : stops[min(chunk.stop, len(part.keys))]]
            content = _dump_rows(part, chunk), own.tobytes()
            crc = _crc_of(number, *content)
            db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (number, *content, crc))
        keys = part.keys[::CHUNK_ENTRIES].to_bytes()
        db.execute("INSERT INTO first_keys VALUES (?, ?)", (keys, zlib.crc32(keys)))
        db.commit()
        return db.serialize()


def _dump_rows(part: PartColumns, chosen: slice) -> bytes:
    keys, entries = part.keys[chosen], part.entries
    rows = np.empty(len(keys), _ROW_TYPE)
    rows["high"], rows["low"] = keys.high, keys.low
    rows["shard"], rows["kind"] = entries.shards[chosen], entries.kinds[chosen]
    rows["offset"] = entries.offsets[chosen]
    return rows.tobytes()


def name_part(file: io.BytesIO | io.BufferedReader) -> str:
    """Return the name of the file with this content."""
    return hashlib.file_digest(file, "sha256").hexdigest()[:24] + SUFFIX


def is_as_named(path: Path) -> bool:
    """Return True if a file has the content that its name says.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return name_part(file) == path.name


@contextmanager
def open_part(path: Path) -> Iterator["CatalogPart"]:
    """Open a part for reading; it may be deleted meanwhile.

    Raises:
        DamagedPartError: It is gone or damaged, as is found now or while the context reads it.
    """
    try:
        with CatalogPart(path) as part:
            yield part
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Python cannot decode a message of SQLite that quotes a damaged name
        raise DamagedPartError(str(error)) from error


class CatalogPart:
    """A part that is open for reading, see ``open_part``.

    Raises:
        sqlite3.Error, UnicodeDecodeError: It is gone or damaged; so for each method.
    """

    def __init__(self, path: Path) -> None:
        # immutable: SQLite takes no lock, which a file that nobody writes does not need
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with ExitStack() as stack:
            self._db = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            self._db.execute("SELECT id FROM shards LIMIT 1").fetchone()
            stack.pop_all()

    def __enter__(self) -> Self:
        """Return itself; the context closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._db.close()

    def shards(self) -> Iterator[CatalogedShard]:
        """Yield all shards, by their numbers.

        Raises:
            DamagedPartError: One differs from its checksum.
        """
        for number, row in enumerate(self._db.execute(f"{_SHARDS} ORDER BY id")):
            yield _to_shard(number, row)

    def search(self, join: KeyJoin) -> Iterator[Matches]:
        """Yield the entries of keys, see ``PartColumns.search``.

        The time is proportional to the number of keys, found or not, or to the size of the file,
        whichever is less.

        Raises:
            DamagedPartError: The file is not what was written.
        """
        first_keys = self._read_first_keys()
        if len(join.asked) * SCAN_SHARE >= len(first_keys):
            yield from self.read().search(join)
            return
        # equal keys may lie in two chunks
        starts = np.searchsorted(first_keys.high, join.asked.high) - 1
        stops = np.searchsorted(first_keys.high, join.asked.high, side="right")
        bounds = zip(np.maximum(starts, 0).tolist(), stops.tolist(), strict=True)
        numbers = sorted({number for bound in bounds for number in range(*bound)})
        found = f"{_CHUNKS} WHERE id = ?"
        chunks = [self._db.execute(found, (number,)).fetchone() for number in numbers]
        keys, entries = self._build_columns(chunks)
        rows = np.flatnonzero(np.isin(keys.high, join.asked.high))
        keys, entries = keys.take(rows), entries.take(rows)
        shards, entries.shards[:] = np.unique(entries.shards, return_inverse=True)
        found = f"{_SHARDS} WHERE id = ?"
        known = [_to_shard(i, self._db.execute(found, (i,)).fetchone()) for i in shards.tolist()]
        yield from PartColumns(keys, entries, tuple(known)).search(join)

    def read(self) -> PartColumns:
        """Read the whole part.

        Raises:
            DamagedPartError: See ``search``.
        """
        chunks = self._db.execute(f"{_CHUNKS} ORDER BY id").fetchall()
        keys, entries = self._build_columns(chunks)
        shards = tuple(self.shards())
        if len(entries) and entries.shards.max() >= len(shards):
            raise DamagedPartError("an entry has no shard")
        return PartColumns(keys, entries, shards)

    def _build_columns(self, chunks: Sequence[Any]) -> tuple[KeyColumns, CacheEntries]:
        """Return the keys and entries of chunks, whose shards have the numbers of the file."""
        contents, checksums = [], []
        for chunk in chunks:
            if chunk is None:
                raise DamagedPartError("a chunk is missing")
            number, content, own_checksums, crc = chunk
            if [type(value) for value in chunk[:3]] != [int, bytes, bytes]:
                raise DamagedPartError("a chunk has values of other types")
            if _crc_of(number, content, own_checksums) != crc:
                raise DamagedPartError("a chunk differs from its checksum")
            contents.append(content)
            checksums.append(own_checksums)
        rows = np.frombuffer(b"".join(contents), _ROW_TYPE)
        known_kinds = tuple(self._read_kinds())
        if len(rows) and rows["kind"].max() >= len(known_kinds):
            raise DamagedPartError("an entry has no kind")
        entries = CacheEntries(
            shards=rows["shard"].astype(np.int32),
            offsets=rows["offset"].astype(np.int64),
            kinds=rows["kind"].astype(np.int32),
            starts=np.zeros(len(rows), dtype=np.int64),
            checksums=np.frombuffer(b"".join(checksums), "<u4"),
            places=(),
            known_kinds=known_kinds or (EntryKind(),),
        )
        counts = entries.count_blocks()
        entries = replace(entries, starts=np.cumsum(counts) - counts)
        return KeyColumns.of_pairs(rows), entries

    def _read_kinds(self) -> Iterator[EntryKind]:
        rows = self._db.execute("SELECT fields, crc FROM kinds ORDER BY id")
        for number, (fields, crc) in enumerate(rows):
            if not isinstance(fields, bytes) or zlib.crc32(fields, number) != crc:
                raise DamagedPartError("a kind of entries differs from its checksum")
            lengths, *others = json.loads(fields)
            yield EntryKind(tuple(lengths), *others)

    def _read_first_keys(self) -> KeyColumns:
        keys, crc = self._db.execute("SELECT keys, crc FROM first_keys").fetchone() or (None, 0)
        if not isinstance(keys, bytes) or zlib.crc32(keys) != crc:
            raise DamagedPartError("the keys of the chunks differ from their checksum")
        return KeyColumns.of_bytes(keys)


def _to_shard(number: int, row: Any) -> CatalogedShard:
    """Return a shard from its row.

    Raises:
        DamagedPartError: The row is missing, or differs from its checksum.
    """
    if row is None:
        raise DamagedPartError("an entry has no shard")
    own_number, name, size_bytes, index_bytes, mtime_ns, codec, crc = row
    shard = CatalogedShard(name, Stamp(size_bytes, index_bytes, mtime_ns), codec)
    if own_number != number or shard.crc != crc:
        raise DamagedPartError("a shard differs from its checksum")
    return shard


def _dump_kind(kind: EntryKind) -> bytes:
    # ASCII: a reason may hold a name of a file that is no Unicode text
    return json.dumps(kind).encode()


def _crc_of(number: int, content: bytes, checksums: bytes) -> int:
    return zlib.crc32(checksums, zlib.crc32(content, number))
