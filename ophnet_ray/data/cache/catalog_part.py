"""One file of the catalog: entries of many shards, found by key; written once, never changed.

It is a SQLite database without a writer, so that no lock is needed on any file system. Its name is
a hash of its content, and each entry has a checksum of its own: a small search need not read the
whole file to trust what it finds.
"""

import hashlib
import io
import itertools
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, Self

from ophnet_ray.data.cache.shards import CacheEntry, ShardIndex
from ophnet_ray.data.video.container import CODEC_VERSIONS

SUFFIX = ".v3.sqlite"
Locate = Callable[[str], tuple[str, str]]
"""A function that gives path and source of a shard by its name."""
_SEARCHED_AT_ONCE = 100_000
_BYTES_PER_ENTRY = 112
"""Typical size of an entry in a file."""
SCAN_SHARE = 8
"""Part of a file's entries, one in so many, from which it is read from end to end: then the time of
a search for all keys does not grow with the number of files times that of the keys."""
_OUR_CODEC = json.dumps(CODEC_VERSIONS, sort_keys=True)
_SCHEMA = """
CREATE TABLE shards (
    id INTEGER PRIMARY KEY, name TEXT, size_bytes INTEGER, index_bytes INTEGER,
    mtime_ns INTEGER, codec TEXT
);
CREATE TABLE entries (
    key TEXT, shard INTEGER, offset INTEGER, lengths TEXT, reason TEXT, kind TEXT,
    is_truncated INTEGER, checksums BLOB, crc INTEGER, PRIMARY KEY (key, shard)
) WITHOUT ROWID;
CREATE TEMP TABLE left_out (name TEXT PRIMARY KEY);
"""


class Stamp(NamedTuple):
    """State of a shard's two files; equal values mean unchanged files.

    ``mtime_ns`` is the time of the index. In a bucket it is that of the shard, since the index is
    written again at its use; whole seconds, as S3 gives them for a single object.
    """

    size_bytes: int
    index_bytes: int
    mtime_ns: int


class CatalogedShard(NamedTuple):
    """A shard as it was when the catalog read its index; ``name`` has no suffix."""

    name: str
    stamp: Stamp
    codec: str

    @property
    def crc(self) -> int:
        """CRC-32 of the shard's name and state."""
        return zlib.crc32(repr(tuple(self)).encode())


class DamagedPartError(Exception):
    """A part that does not hold what was written to it."""


class PartBuilder:
    """A part in memory, before it is written."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", uri=True)
        self._db.executescript(_SCHEMA)
        self.num_shards = 0

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return _size_of(self._db)

    def add(self, index: ShardIndex, stamp: Stamp) -> None:
        """Add the entries of a shard, or nothing.

        Raises:
            sqlite3.Error, ValueError, OverflowError: An entry does not fit, e.g. its reason is no
                Unicode text.
        """
        codec = json.dumps(index.codec, sort_keys=True)
        shard = CatalogedShard(index.shard.stem, stamp, codec)
        crc = shard.crc
        row = (self.num_shards, shard.name, *stamp, codec)
        with self._db:
            self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)", row)
            self._db.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_to_row(entry, self.num_shards, crc) for entry in index.entries),
            )
        self.num_shards += 1

    def merge(self, part: Path, left_out: Iterable[str]) -> None:
        """Add the shards of another part that are not here, except some, by their names.

        Raises:
            sqlite3.Error: The part is gone or damaged.
        """
        self._db.executemany(
            "INSERT OR IGNORE INTO left_out VALUES (?)", ((name,) for name in left_out)
        )
        self._db.commit()
        self._db.execute("ATTACH ? AS part", (_uri_of(part),))
        try:
            with self._db:
                self._db.execute(
                    "INSERT INTO shards SELECT id + ?, name, size_bytes, index_bytes, "
                    "mtime_ns, codec FROM part.shards WHERE name NOT IN "
                    "(SELECT name FROM left_out UNION SELECT name FROM main.shards)",
                    (self.num_shards,),
                )
                self._db.execute(
                    "INSERT OR IGNORE INTO entries SELECT key, shard + ?1, offset, lengths, "
                    "reason, kind, is_truncated, checksums, crc FROM part.entries "
                    "WHERE shard + ?1 IN (SELECT id FROM main.shards)",
                    (self.num_shards,),
                )
        finally:
            self._db.execute("DETACH part")
        (last,) = self._db.execute("SELECT coalesce(max(id), -1) FROM shards").fetchone()
        self.num_shards = last + 1

    def finish(self) -> bytes:
        """Return the content of the file; nothing can be added any more."""
        with closing(self._db):
            self._db.commit()
            return self._db.serialize()

    def close(self) -> None:
        """Free the memory; it may be finished."""
        self._db.close()


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


class CatalogPart:
    """A part that is open for reading; it may be deleted meanwhile.

    Raises:
        sqlite3.Error: It is gone, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._db = stack.enter_context(closing(sqlite3.connect(_uri_of(path), uri=True)))
            self._db.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("SELECT id FROM shards LIMIT 1").fetchone()
            stack.pop_all()

    def __enter__(self) -> Self:
        """Return itself; the context closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._db.close()

    def shards(self) -> Iterator[CatalogedShard]:
        """Yield all shards."""
        for row in self._db.execute("SELECT * FROM shards"):
            yield _to_shard(row)

    def search(
        self, keys: Mapping[str, str], locate: Locate
    ) -> Iterator[tuple[CatalogedShard, CacheEntry]]:
        """Yield the entries of keys with their shards; the same key may have several.

        The time is proportional to the number of keys, found or not, or to the size of the file,
        whichever is less. Rejects of another codec are left out.

        Args:
            keys: The keys, each with itself: entries share its text.
            locate: Gives path and source of a shard by its name.

        Raises:
            DamagedPartError: An entry differs from its checksum, or the file from its own.
            sqlite3.Error: The file is damaged, or on a file system that has lost it.
        """
        shards: dict[int, tuple[CatalogedShard, int, tuple[str, str]]] = {}
        lengths: dict[str, tuple[int, ...]] = {}
        is_large = len(keys) * SCAN_SHARE * _BYTES_PER_ENTRY >= _size_of(self._db)
        # the checksum of the file takes a tenth of the time of those of all its entries
        is_checked = is_large and self._is_whole()
        for row in self._scan() if is_large else self._seek(keys):
            key = keys.get(row[0])
            if key is None:
                continue
            known = shards.get(row[1])
            if known is None:
                shard = self._shard(row[1])
                known = shards[row[1]] = shard, shard.crc, locate(shard.name)
            shard, crc, place = known
            if not is_checked:
                _check_row(row, crc)
            entry = _to_entry(key, row, place, lengths)
            if not entry.reason or shard.codec == _OUR_CODEC:
                yield shard, entry

    def _is_whole(self) -> bool:
        """Compare the file with the hash in its name; return False if it cannot be told.

        Raises:
            DamagedPartError: They differ.
        """
        try:
            is_right = is_as_named(self.path)
        except OSError:
            return False  # deleted since it was opened
        if not is_right:
            raise DamagedPartError("the file differs from its checksum")
        return True

    def _scan(self) -> Iterator[Any]:
        """Yield all rows from end to end of the file."""
        return self._db.execute("SELECT * FROM entries")

    def _seek(self, keys: Mapping[str, str]) -> Iterator[Any]:
        """Yield the rows of keys, each found by itself."""
        # in the order of the file, each page is read once: of a large file few stay in memory
        left = iter(sorted(keys))
        while chunk := list(itertools.islice(left, _SEARCHED_AT_ONCE)):
            self._db.execute("DELETE FROM wanted")
            self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((k,) for k in chunk))
            found = "SELECT entries.* FROM wanted CROSS JOIN entries ON entries.key = wanted.key"
            yield from self._db.execute(found)

    def _shard(self, shard_id: int) -> CatalogedShard:
        row = self._db.execute("SELECT * FROM shards WHERE id = ?", (shard_id,)).fetchone()
        if row is None:
            raise DamagedPartError("an entry has no shard")
        return _to_shard(row)


def _size_of(db: sqlite3.Connection) -> int:
    (pages,), (bytes_per_page,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
    )
    return int(pages * bytes_per_page)


def _uri_of(path: Path) -> str:
    # immutable: SQLite takes no lock, which a file that nobody writes does not need
    return f"{path.absolute().as_uri()}?mode=ro&immutable=1"


def _to_shard(row: Any) -> CatalogedShard:
    _, name, size_bytes, index_bytes, mtime_ns, codec = row
    return CatalogedShard(name, Stamp(size_bytes, index_bytes, mtime_ns), codec)


def _to_row(entry: CacheEntry, shard_id: int, shard_crc: int) -> tuple[object, ...]:
    lengths = ",".join(map(str, entry.snippet_lengths))
    fields = (entry.offset, lengths, entry.reason, entry.kind or "", int(entry.is_truncated))
    crc = _crc_of(entry.key, shard_crc, fields, entry.checksums)
    return (entry.key, shard_id, *fields, entry.checksums, crc)


def _check_row(row: Any, shard_crc: int) -> None:
    """Compare a row with its checksum.

    Raises:
        DamagedPartError: It differs.
    """
    key, _, *fields, checksums, crc = row
    if not isinstance(checksums, bytes):
        raise DamagedPartError("the checksums of an entry are no bytes")
    if _crc_of(key, shard_crc, tuple(fields), checksums) != crc:
        raise DamagedPartError("an entry differs from its checksum")


def _to_entry(
    key: str, row: Any, place: tuple[str, str], known_lengths: dict[str, tuple[int, ...]]
) -> CacheEntry:
    """Return the entry of a row; equal lengths are one object, since there are millions of rows."""
    _, _, offset, lengths, reason, kind, is_truncated, checksums, _ = row
    if lengths not in known_lengths:
        known_lengths[lengths] = tuple(int(n) for n in lengths.split(",") if n)
    path, source = place
    return CacheEntry(
        key,
        path,
        offset,
        known_lengths[lengths],
        reason,
        kind or None,
        is_truncated=bool(is_truncated),
        source=source,
        checksums=checksums,
    )


def _crc_of(key: str, shard_crc: int, fields: Sequence[object], checksums: bytes) -> int:
    """Return the CRC-32 of an entry, begun with that of its shard, so that neither can be wrong."""
    return zlib.crc32(f"{key}{fields}".encode(), zlib.crc32(checksums, shard_crc))
