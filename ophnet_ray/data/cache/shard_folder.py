"""Shards in a folder, and the parts of their catalog."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.catalog_part import SUFFIX
from ophnet_ray.data.cache.part_columns import Stamp
from ophnet_ray.data.cache.shards import ShardIndex, read_shard_index
from ophnet_ray.storage.files import write_atomically

_THREADS = 16
_STATS_AT_ONCE = 500


class ShardFolder:
    """Shards in a folder; see ``catalog.Shelf``.

    Args:
        folder: The folder; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.catalog = folder, folder / CATALOG

    def list_shards(self, known: Collection[str]) -> tuple[set[str], dict[str, Stamp]]:
        """Return the shards that have an index, and the state of those that are not known."""
        with os.scandir(self.folder) as files:
            names = [file.name for file in files]
        listed = {name[:-5] for name in names if name.endswith(".json") and name[0] != "."}
        return listed, self.stat_shards(listed.difference(known))

    def stat_shards(self, names: Collection[str]) -> dict[str, Stamp]:
        """Return the state of some shards; those without an index are left out.

        The requests are as many as the shards, whatever else is in the folder.
        """
        left = iter(names)
        chunks = list(iter(lambda: list(itertools.islice(left, _STATS_AT_ONCE)), []))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="stat-shards") as pool:
            return {
                name: stamp for stamps in pool.map(self._stat, chunks) for name, stamp in stamps
            }

    def _stat(self, names: Iterable[str]) -> list[tuple[str, Stamp]]:
        stamps = []
        for name in names:
            with suppress(FileNotFoundError):
                index = self._stat_index(name)
                stamps.append((name, Stamp(self._size(name), *index)))
        return stamps

    def _stat_index(self, name: str) -> tuple[int, int]:
        """Return size and time of an index; (-1, -1) if it cannot be told, as of a stale handle.

        Raises:
            FileNotFoundError: It is gone.
        """
        try:
            status = os.stat(f"{self.folder}/{name}.json")  # noqa: PTH116 - a Path costs more
        except FileNotFoundError:
            raise
        except OSError:
            return -1, -1  # who reads it names the error
        return status.st_size, status.st_mtime_ns

    def _size(self, name: str) -> int:
        """Return the size of a shard; -1, which no index states, if it is gone."""
        try:
            return os.stat(f"{self.folder}/{name}.arrow").st_size  # noqa: PTH116 - as above
        except OSError:
            return -1  # as above

    def read_shards(self, stamps: Mapping[str, Stamp]) -> Iterator[ShardIndex]:
        """Read the indexes of shards in a state, except those that are not whole."""
        for name in stamps:
            index = read_shard_index(self.folder / f"{name}.json")
            if index is not None:
                yield index

    def locate(self, name: str) -> tuple[str, str]:
        """Return the path of a shard; it is in no bucket."""
        return f"{self.folder}/{name}.arrow", ""

    def fetch_parts(self) -> list[Path]:
        """Return the parts of the catalog.

        Raises:
            OSError: They may not be listed.
        """
        return list_parts(self.catalog)

    def renew_part(self, name: str) -> bool:
        """Return False: a part in a folder is no copy."""
        return False

    def add_part(self, name: str, content: bytes) -> None:
        """Write a part of the catalog.

        Raises:
            OSError: It cannot be written.
        """
        self.catalog.mkdir(exist_ok=True)
        write_atomically(self.catalog / name, content)

    def remove_part(self, name: str) -> None:
        """Delete a part of the catalog; it may be gone.

        Raises:
            OSError: It may not be deleted.
        """
        (self.catalog / name).unlink(missing_ok=True)


def list_parts(folder: Path) -> list[Path]:
    """Return the parts of a catalog in a folder, in the order of their names.

    Raises:
        OSError: The folder may not be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []
