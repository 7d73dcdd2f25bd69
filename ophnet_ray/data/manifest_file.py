"""The file of a manifest's columns: Arrow IPC, mapped into memory by all workers of a machine.

The file has a row per split, and a list per column: any Arrow reader opens it, and each list lies
in the file as an array does in memory. A segment takes some 60 bytes, half of them the checksums
of its eight blocks.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.layouts import Layouts
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.hashing import hash_file
from ophnet_ray.storage.files import write_atomically

_ARRAYS = (
    "ids",
    "labels",
    "cases",
    "lengths",
    "shards",
    "offsets",
    "checksums",
    "unchecked",
    "shard_folders",
    "groups",
)
_NAMES = ("case_names", "shard_names")
_DURATIONS = "durations"
"""Column that a file has only if a split has it, so that other runs keep their files."""
_HEADER, _FACTS = b"ophnet_ray", "facts"


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """Path and checksum of a file of columns, and the few numbers that its driver needs.

    Attributes:
        path: The file, on the machine that wrote it and on all that share the folder.
        sha256: Its checksum.
        phases: The vocabulary.
        num_segments: Segments of each split.
        content: Where else the content is, for those who have put it there; see ``train``.
    """

    path: str
    sha256: str
    phases: tuple[str, ...]
    num_segments: Mapping[str, int]
    content: Any = None

    def count(self, split: str) -> int:
        """Return the number of segments of a split."""
        return self.num_segments.get(split, 0)


def write_columns(
    path: Path, columns: ManifestColumns, facts: Mapping[str, Any] | None = None
) -> ManifestFile:
    """Write a file of columns, unless it is there as it would be written.

    Args:
        path: Local path.
        columns: The segments.
        facts: Plain values to keep beside them, see ``read_facts``.

    Raises:
        OSError: It cannot be written.
    """
    content = _dump(columns, facts or {})
    sha256 = hashlib.sha256(content).hexdigest()
    # workers of a run that still ends may have mapped it
    if not (path.is_file() and hash_file(path) == sha256):
        write_atomically(path, content)
    counts = {name: len(split) for name, split in columns.splits.items()}
    return ManifestFile(path=str(path), sha256=sha256, phases=columns.phases, num_segments=counts)


def read_columns(file: pa.NativeFile) -> ManifestColumns:
    """Read a file of columns; what is mapped stays where it is.

    Args:
        file: A mapped file, or memory.
    """
    table = pa.ipc.open_file(file).read_all()
    header = json.loads(table.schema.metadata[_HEADER])
    splits = {name: _read_split(table, header, i) for i, name in enumerate(header["splits"])}
    return ManifestColumns(tuple(header["phases"]), WindowConfig(**header["windows"]), splits)


def read_facts(file: pa.NativeFile) -> dict[str, Any]:
    """Read the plain values beside the columns."""
    reader = pa.ipc.open_file(file)
    facts: dict[str, Any] = json.loads(reader.read_all().column(_FACTS)[0].as_py()[0])
    return facts


def _dump(columns: ManifestColumns, facts: Mapping[str, Any]) -> bytes:
    """Return the content of a file; equal columns have equal contents."""
    header = {
        "phases": columns.phases,
        "windows": asdict(columns.windows),
        "splits": list(columns.splits),
        "layouts": [split.layouts.kinds for split in columns.splits.values()],
        "folders": [split.folders for split in columns.splits.values()],
    }
    splits = list(columns.splits.values())
    lists = {
        name: _join([getattr(split, name) for split in splits]) for name in (*_ARRAYS, *_NAMES)
    }
    lists["layouts"] = _join([split.layouts.numbers for split in splits])
    durations = [split.durations for split in splits]
    if any(each is not None for each in durations):
        none = np.empty(0, dtype=np.uint8)
        lists[_DURATIONS] = _join([none if each is None else each for each in durations])
    texts = [[json.dumps(facts)], *([] for _ in splits[1:])] if splits else []
    lists[_FACTS] = pa.array(texts, pa.large_list(pa.large_string()))
    table = pa.table(lists).replace_schema_metadata({_HEADER: json.dumps(header)})
    content = BytesIO()
    with pa.ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    return content.getvalue()


def _join(parts: list[NDArray[Any] | pa.Array]) -> pa.Array:
    """Return a list per split as one column, in the smallest type that holds all of them."""
    stops = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    if parts and isinstance(parts[0], np.ndarray):
        values = pa.array(np.concatenate(parts))
    else:
        values = pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
    return pa.LargeListArray.from_arrays(pa.array(stops), values)


def _read_split(row: pa.Table, header: Mapping[str, Any], number: int) -> SegmentColumns:
    lists = {name: row.column(name)[number].values for name in row.column_names if name != _FACTS}
    arrays = {name: lists[name].to_numpy(zero_copy_only=True) for name in _ARRAYS}
    kinds = tuple(map(tuple, header["layouts"][number]))
    has_durations = _DURATIONS in lists and len(lists[_DURATIONS]) > 0
    durations = lists[_DURATIONS].to_numpy(zero_copy_only=True) if has_durations else None
    return SegmentColumns(
        **arrays,
        layouts=Layouts(kinds, lists["layouts"].to_numpy(zero_copy_only=True)),
        case_names=lists["case_names"],
        shard_names=lists["shard_names"],
        folders=tuple(map(tuple, header["folders"][number])),
        durations=durations,
    )
