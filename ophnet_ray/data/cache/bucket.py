"""Shards shared through a bucket, with copies in a folder of each machine that needs them.

The bucket holds the files of a cache folder under the same names: a shard, then its index. All
machines use the shards that the bucket lists; a shard on one machine's disk alone is not shared.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.catalog_part import SUFFIX
from ophnet_ray.data.cache.part_columns import Stamp
from ophnet_ray.data.cache.shard_folder import list_parts
from ophnet_ray.data.cache.shards import ShardIndex, parse_shard_index
from ophnet_ray.errors import UserError
from ophnet_ray.storage.access import check_writable
from ophnet_ray.storage.files import (
    FileStatus,
    delete_object,
    list_objects,
    read_bytes,
    stat_objects,
    upload,
    write_object,
)
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.local_copies import fetch_once
from ophnet_ray.storage.paths import join, name_of

INDEX_THREADS = 16
MAX_ASKED = 64
"""Shards that are asked for one by one; for more, the bucket is listed."""
MARK_AGE_NS = 86_400 * 10**9
"""Minimum age of an index that is marked as used again."""
CLOCK = ".clock"

logger = logging.getLogger(__name__)


class CacheBucket:
    """Shards in a bucket.

    Args:
        uri: Folder of the shards in the bucket.
        folder: Folder of this machine's copies.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder

    def now_ns(self) -> int:
        """Check that the bucket can be written, and return the time of its clock.

        Raises:
            UserError: The bucket cannot be written.
        """
        check_writable("--cache_dir", self.uri)
        write_object(join(self.uri, CLOCK), b"")
        return list_objects(self.uri)[CLOCK].mtime_ns

    def read_indexes(
        self, written_since_ns: int = 0, known: set[str] | None = None
    ) -> Iterator[ShardIndex]:
        """Read the indexes of the whole shards.

        Args:
            written_since_ns: Leave out older indexes, by the bucket's clock.
            known: Names of indexes to leave out; those that are read are added.

        Raises:
            StorageError: The bucket does not answer.
        """
        known = set() if known is None else known
        listed = list_objects(self.uri)
        names = [
            name
            for name, status in listed.items()
            if name.endswith(".json")
            and status.mtime_ns >= written_since_ns
            and name not in known
            and f"{name.removesuffix('.json')}.arrow" in listed
        ]
        with ThreadPoolExecutor(INDEX_THREADS, thread_name_prefix="read-indexes") as pool:
            for name, text in zip(names, pool.map(self._read_index, names), strict=True):
                known.add(name)
                shard = f"{name.removesuffix('.json')}.arrow"
                if text is None:
                    continue
                source = join(self.uri, shard)
                index = parse_shard_index(
                    text, self.folder / shard, listed[shard].size_bytes, source
                )
                if index is not None:
                    yield index

    def list_shards(self, known: Collection[str]) -> tuple[set[str], dict[str, Stamp]]:
        """Return the whole shards, and the state of those that are not known; see ``Shelf``.

        Raises:
            StorageError: The bucket does not answer.
        """
        stamps = _stamps_of(list_objects(self.uri))
        return set(stamps), {name: stamp for name, stamp in stamps.items() if name not in known}

    def stat_shards(self, names: Collection[str]) -> dict[str, Stamp]:
        """Return the state of some shards; those that are not there are left out.

        Few are asked for one by one, simultaneously; many are found in a listing of the bucket.

        Raises:
            StorageError: The bucket does not answer.
        """
        if len(names) > MAX_ASKED:
            stamps = _stamps_of(list_objects(self.uri))
            return {name: stamps[name] for name in names if name in stamps}
        files = [f"{name}{suffix}" for name in names for suffix in (".arrow", ".json")]
        return _stamps_of(stat_objects(self.uri, files))

    def read_shards(self, stamps: Mapping[str, Stamp]) -> Iterator[ShardIndex]:
        """Read the indexes of shards in a state, except those that are not whole.

        Raises:
            StorageError: The bucket does not answer.
        """
        with ThreadPoolExecutor(INDEX_THREADS, thread_name_prefix="read-indexes") as pool:
            # not this machine's copies, which may be of an older state
            texts = pool.map(self._fetch_index, (f"{name}.json" for name in stamps))
            for (name, stamp), text in zip(stamps.items(), texts, strict=True):
                index = None
                if text is not None:
                    path, source = self.locate(name)
                    index = parse_shard_index(text, Path(path), stamp.size_bytes, source)
                if index is not None:
                    yield index

    def locate(self, name: str) -> tuple[str, str]:
        """Return the path of a shard's copy on this machine, and its URI."""
        shard = f"{name}.arrow"
        return f"{self.folder}/{shard}", join(self.uri, shard)

    def fetch_parts(self) -> list[Path]:
        """Return this machine's copies of the parts of the catalog.

        One that cannot be fetched is named and left out.

        Raises:
            OSError: The bucket does not answer.
        """
        uri, folder = join(self.uri, CATALOG), self.folder / CATALOG
        parts = []
        for name in sorted(list_objects(uri)):
            if not name.endswith(SUFFIX):
                continue
            try:
                parts.append(fetch_once(join(uri, name), folder / name))
            except FileNotFoundError:
                continue  # merged a moment ago
            except OSError as error:
                logger.warning("a part of the catalog cannot be read: %s", error)
        for stale in set(list_parts(folder)).difference(parts):
            stale.unlink(missing_ok=True)
        return parts

    def renew_part(self, name: str) -> bool:
        """Fetch a part again, whose copy here is damaged.

        Raises:
            FileNotFoundError: It is gone from the bucket.
            OSError: It cannot be fetched.
        """
        copy = self.folder / CATALOG / name
        copy.unlink(missing_ok=True)
        fetch_once(join(join(self.uri, CATALOG), name), copy)
        return True

    def add_part(self, name: str, content: bytes) -> None:
        """Write a part of the catalog.

        Raises:
            StorageError: The bucket does not accept it.
        """
        write_object(join(join(self.uri, CATALOG), name), content)

    def remove_part(self, name: str) -> None:
        """Delete a part of the catalog; it may be gone.

        Raises:
            StorageError: The bucket does not answer, or does not allow it.
        """
        (self.folder / CATALOG / name).unlink(missing_ok=True)
        delete_object(join(join(self.uri, CATALOG), name))

    def shared(self, index: ShardIndex) -> ShardIndex:
        """Return the index of a shard on this machine with the shard's URI in its entries."""
        source = join(self.uri, index.shard.name)
        entries = tuple(replace(entry, source=source) for entry in index.entries)
        return replace(index, entries=entries)

    def _read_index(self, name: str) -> bytes | None:
        """Read this machine's copy of an index beside its copy of the shard, or the bucket's."""
        copy = self.folder / name
        if copy.with_suffix(".arrow").exists():
            with suppress(FileNotFoundError):
                return copy.read_bytes()
        return self._fetch_index(name)

    def _fetch_index(self, name: str) -> bytes | None:
        try:
            return read_bytes(join(self.uri, name))
        except FileNotFoundError:
            return None  # pruned a moment ago

    def upload(self, shard: Path) -> str:
        """Upload a shard of this machine, then its index; return its URI.

        Raises:
            UserError: The bucket does not accept it.
        """
        index = shard.with_suffix(".json")
        # once the shard is sent, other processes may delete both files to make room for theirs
        text = index.read_bytes()
        try:
            upload(shard, join(self.uri, shard.name))
            write_object(join(self.uri, index.name), text)
        except StorageError as error:
            raise UserError(
                f"--cache_dir {error}; the same command resumes with the shards in the bucket"
            ) from error
        return join(self.uri, shard.name)

    def mark_used(self, sources: Iterable[str], now_ns: int) -> None:
        """Set the time of the shards' indexes to now: it is the time of their last use.

        The time of an object cannot be set: its index is written again, at most once per day.
        """
        listed = list_objects(self.uri)
        for shard in {name_of(source) for source in sources}:
            name = f"{shard.removesuffix('.arrow')}.json"
            if name in listed and now_ns - listed[name].mtime_ns > MARK_AGE_NS:
                text = self._fetch_index(name)
                if text is not None:
                    write_object(join(self.uri, name), text)


def _stamps_of(listed: Mapping[str, FileStatus]) -> dict[str, Stamp]:
    """Return the state of the shards whose two files are there."""
    return {
        file.removesuffix(".json"): Stamp(
            shard.size_bytes, index.size_bytes, shard.mtime_ns // 10**9 * 10**9
        )
        for file, index in listed.items()
        if file.endswith(".json") and (shard := listed.get(f"{file[:-5]}.arrow"))
    }
