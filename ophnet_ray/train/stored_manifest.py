"""Manifest of a run as a file: written by the driver, mapped by the workers."""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ophnet_ray.data.layouts import Unsigned
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.manifest_file import (
    ManifestFile,
    read_columns,
    read_facts,
    write_columns,
)
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.garbage import pause_collections
from ophnet_ray.hashing import hash_file
from ophnet_ray.models.training_summary import TrainingSummary, summarise_training_segments
from ophnet_ray.storage.local_copies import fetch_once
from ophnet_ray.storage.paths import join
from ophnet_ray.train.run_directory import RunDirectory

_COPIES = ".manifests"
"""Folder of the copies that a machine fetches from the bucket of a run."""

MAX_COPY_AGE_S = 7 * 24 * 3600
"""Age from which the copy of another manifest is deleted."""
MAX_READ_BYTES = 16_000_000
"""Largest file that each worker keeps in memory; that of OphNet has 0.8 MB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerData:
    """Data of a train worker.

    Attributes:
        columns: The segments.
        summarise: Returns the facts of the training that checkpoints keep.
    """

    columns: ManifestColumns
    summarise: Callable[[], TrainingSummary]


def store_manifest(manifest: Manifest, path: Path, *, keeps_groups: bool = False) -> ManifestFile:
    """Write a manifest, and the facts of its training segments, as the workers read them.

    Args:
        manifest: The segments.
        path: The file.
        keeps_groups: Keep the groups of the training segments in a file that is there, or begin
            with the shards of now: ``--shuffle shard`` then has the same order in a run that is
            resumed, even if its cache was decoded again, into other shards.

    Raises:
        OSError: The file cannot be written.
    """
    with pause_collections():
        columns = ManifestColumns.of_manifest(manifest)
        if keeps_groups:
            columns = _keep_groups(columns, path)
        facts = summarise_training_segments(manifest).to_dict()
        return write_columns(path, columns, facts)


def _keep_groups(columns: ManifestColumns, path: Path) -> ManifestColumns:
    train = columns.of_split("train")
    before = _read_groups(path, train)
    groups = train.shards if before is None else before
    return replace(columns, splits={**columns.splits, "train": replace(train, groups=groups)})


def _read_groups(path: Path, train: SegmentColumns) -> Unsigned | None:
    """Return the groups of the same segments in a file of columns; None if there are none."""
    if not path.is_file():
        return None
    try:
        before = read_columns(pa.BufferReader(path.read_bytes())).of_split("train")
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's errors are among them
        logger.warning(
            "%s cannot be read (%s): --shuffle shard takes the shards of now", path, error
        )
        return None
    order = np.argsort(before.ids)
    if not np.array_equal(before.ids[order], np.sort(train.ids)):
        logger.warning(
            "%s holds other training segments than there are now: --shuffle shard takes the shards "
            "of now, in another order than before",
            path,
        )
        return None
    # the rows may be in another order; an older version kept no groups but the shards of then
    return before.shuffle_groups[order[np.searchsorted(before.ids, train.ids, sorter=order)]]


def share_manifest(manifest: Manifest | ManifestFile, run: RunDirectory) -> Manifest | ManifestFile:
    """Give the file to Ray's object store, for machines that do not share the folder of the run.

    Each machine fetches it once, whatever the number of its workers. Buckets are shared anyway. One
    that is there stays: a search gives the file of its trials once.
    """
    if not isinstance(manifest, ManifestFile) or manifest.content is not None:
        return manifest
    if run.is_in_bucket or not _has_other_machines():
        return manifest
    import ray

    return replace(manifest, content=ray.put(np.fromfile(manifest.path, dtype=np.uint8)))


def _has_other_machines() -> bool:
    import ray

    # a cluster may grow; a Ray of this run's own does not
    return find_running_head() is not None or sum(node["Alive"] for node in ray.nodes()) > 1


def open_manifest(manifest: Manifest | ManifestFile, run: RunDirectory) -> WorkerData:
    """Open the data of a worker; fetch them if this machine lacks the file.

    Raises:
        OSError: The file cannot be read or fetched, or is damaged.
    """
    if isinstance(manifest, Manifest):
        columns = ManifestColumns.of_manifest(manifest)
        return WorkerData(columns, lambda: summarise_training_segments(manifest))
    file = _locate(manifest, run)
    num_phases = len(manifest.phases)
    return WorkerData(
        read_columns(file), lambda: TrainingSummary.from_dict(read_facts(file), num_phases)
    )


def _locate(manifest: ManifestFile, run: RunDirectory) -> pa.NativeFile:
    """Return the verified file as this machine has it: mapped, in memory, or in Ray's memory."""
    path = Path(manifest.path)
    if file := _open_whole(path, manifest.sha256):
        return file
    if run.is_in_bucket:
        uri, name = join(run.location, path.name), f"{manifest.sha256[:16]}{path.suffix}"
        copy = fetch_once(uri, run.path / _COPIES / name)
        _remove_old_copies(copy)
        if file := _open_whole(copy, manifest.sha256):
            return file
        copy.unlink(missing_ok=True)
        raise OSError(f"{uri} is damaged: its checksum is another one; start the run again")
    if manifest.content is not None:
        import ray

        content: Any = ray.get(manifest.content)
        if hashlib.sha256(content).hexdigest() == manifest.sha256:
            return pa.BufferReader(pa.py_buffer(content))
    raise OSError(
        f"{path} cannot be read on this machine, or is damaged: the same command writes it again; "
        "--storage_path must be a folder that all nodes share, or a bucket"
    )


def _remove_old_copies(copy: Path) -> None:
    """Delete the copies of earlier manifests beside one: a run may have had other rows or windows.

    A worker that has mapped one keeps it; one that starts later fetches it again.
    """
    oldest_s = time.time() - MAX_COPY_AGE_S
    for other in copy.parent.glob(f"*{copy.suffix}"):
        with suppress(OSError):  # another process has deleted it, or it belongs to another user
            if other != copy and other.stat().st_mtime < oldest_s:
                other.unlink()


def _open_whole(path: Path, sha256: str) -> pa.NativeFile | None:
    """Return a file in memory if it is small, else mapped; None if it has another checksum.

    A file system that loses a mapped file ends the process without a word.
    """
    try:
        if path.stat().st_size > MAX_READ_BYTES:
            return pa.memory_map(str(path)) if hash_file(path) == sha256 else None
        content = path.read_bytes()
    except OSError as error:
        logger.info("%s is not read here: %s", path, error)
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    return pa.BufferReader(pa.py_buffer(content))
