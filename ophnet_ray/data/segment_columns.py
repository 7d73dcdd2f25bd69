"""Usable segments of one split as columns: some 60 bytes each, which may lie in a mapped file."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.read_ahead import SharedShard
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.layouts import Layouts, Unsigned, number_by_first, shrink
from ophnet_ray.data.manifest_rows import ManifestItem, ManifestRows
from ophnet_ray.storage.paths import join, name_of, parent_of

MAX_KNOWN_SHARDS = 4096
"""Shards whose paths are kept; making one takes as long as reading a window of a small image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentColumns:
    """Everything that reading the windows of N segments needs, in the order of the CSV.

    Numbers lie in the smallest unsigned type that holds all of them.
    """

    ids: NDArray[np.uint64]
    """Numbers that ``hash_ids`` made of the segments' ids: orders and picks depend on them."""
    labels: Unsigned
    cases: Unsigned
    """Index of each case among ``case_names``."""
    lengths: Unsigned
    """See ``ManifestRows.measure_lengths``."""
    layouts: Layouts
    shards: Unsigned
    """Index of each shard among ``shard_names``."""
    offsets: Unsigned
    """Byte of the shard at which the blocks begin."""
    checksums: NDArray[np.uint32]
    """CRC-32 of each block, of one segment after the other; empty where no shard has any."""
    unchecked: Unsigned
    """Segments without checksums, ascending, where others have some."""
    case_names: pa.Array
    """Distinct cases, sorted."""
    shard_names: pa.Array
    """File names of the shards."""
    shard_folders: Unsigned
    """Index of each shard's folder among ``folders``."""
    folders: tuple[tuple[str, str], ...]
    """Folders of shards on this machine, each with its URI in a bucket, if it has one."""
    groups: Unsigned = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    """Number of the group of each segment that ``--shuffle shard`` keeps together: the shards when
    the run began, whatever became of the cache since. Empty: the shards now."""
    durations: Unsigned | None = None
    """See ``measure_durations``; None where no score of the run asks for them."""

    @property
    def shuffle_groups(self) -> Unsigned:
        """Group of each segment that ``--shuffle shard`` keeps together, (N,)."""
        return self.groups if len(self.groups) else self.shards

    @classmethod
    def of_items(cls, items: Iterable[ManifestItem]) -> Self:
        """Turn rows into columns of workers."""
        rows = ManifestRows.of_items(items)
        segments, entries = rows.segments, rows.entries
        case_names = sorted(segments.cases.list_present())
        case_of = {name: number for number, name in enumerate(case_names)}
        cases = segments.cases.look_up(case_of)
        used, shards = number_by_first(entries.shards)
        places = [entries.places[number] for number in used.tolist()]
        folder_of: dict[tuple[str, str], int] = {}
        folders = [(parent_of(path), parent_of(uri) if uri else "") for path, uri in places]
        shard_folders = [folder_of.setdefault(folder, len(folder_of)) for folder in folders]
        has_checksums = entries.are_set("has_checksums")
        has_any = bool(has_checksums.any())
        return cls(
            ids=segments.hash_ids(),
            labels=shrink(rows.labels),
            cases=shrink(cases),
            lengths=shrink(rows.measure_lengths()),
            layouts=_find_layouts(entries),
            shards=shrink(shards),
            offsets=shrink(entries.offsets),
            checksums=entries.join_checksums() if has_any else np.empty(0, dtype=np.uint32),
            unchecked=shrink(np.flatnonzero(~has_checksums & has_any)),
            case_names=pa.array(case_names, pa.large_string()),
            shard_names=pa.array([name_of(path) for path, _ in places], pa.large_string()),
            shard_folders=shrink(np.asarray(shard_folders, dtype=np.int64)),
            folders=tuple(folder_of),
        )

    def __len__(self) -> int:
        """Return the number of segments."""
        return len(self.ids)

    @cached_property
    def first_blocks(self) -> Unsigned:
        """Blocks of the segments before each one, and of all, (N + 1,)."""
        stops = np.cumsum(self.layouts.count_blocks(), dtype=np.int64)
        return shrink(np.concatenate([[0], stops]))

    def read_entry(self, segment: int, *, checksums: bool = True) -> CacheEntry:
        """Return the position of a segment's blocks, without its key.

        Args:
            segment: Its index.
            checksums: Return the checksums, too; they cost the most.
        """
        path, source = self._locate_shard(int(self.shards[segment]))
        return CacheEntry(
            "",
            path,
            int(self.offsets[segment]),
            self.layouts.kinds[self.layouts.numbers[segment]],
            source=source,
            checksums=self.read_checksums(segment) if checksums else b"",
        )

    @property
    def is_in_bucket(self) -> bool:
        """True if some shards lie in a bucket."""
        return any(uri for _, uri in self.folders)

    def locate_shards(self, segments: NDArray[np.int64]) -> list[SharedShard]:
        """Return the distinct shards of some segments, as far as they lie in a bucket."""
        found = (self._locate_shard(number) for number in np.unique(self.shards[segments]).tolist())
        return [SharedShard(path, source) for path, source in found if source]

    @cached_property
    def _known_shards(self) -> dict[int, tuple[str, str]]:
        return {}

    def _locate_shard(self, number: int) -> tuple[str, str]:
        """Return the path of a shard, and its URI in a bucket or an empty text."""
        known = self._known_shards
        found = known.get(number)
        if found is None:
            if len(known) >= MAX_KNOWN_SHARDS:  # more by as many threads as look simultaneously
                known.clear()
            name: str = self.shard_names[number].as_py()
            folder, uri = self.folders[self.shard_folders[number]]
            found = known[number] = (f"{folder}/{name}", join(uri, name) if uri else "")
        return found

    def _has_checksums(self, segment: int) -> bool:
        if not len(self.unchecked) or segment > self.unchecked[-1]:
            return bool(len(self.checksums))
        # a plain int would make NumPy copy the whole array into a wider type
        place = np.searchsorted(self.unchecked, self.unchecked.dtype.type(segment))
        return bool(self.unchecked[place] != segment)

    def read_checksums(self, segment: int) -> bytes:
        """Return the checksums of a segment's blocks, see ``CacheEntry``."""
        if not self._has_checksums(segment):
            return b""
        start, stop = self.first_blocks[segment : segment + 2].tolist()
        return self.checksums[start:stop].tobytes()


def _find_layouts(entries: CacheEntries) -> Layouts:
    """Return the layouts of entries, in the order of the first entry of each."""
    used, numbers = number_by_first(entries.kinds)
    kinds = [entries.known_kinds[number].snippet_lengths for number in used.tolist()]
    layouts = Layouts.of_lengths(kinds)
    return replace(layouts, numbers=layouts.numbers[numbers])
