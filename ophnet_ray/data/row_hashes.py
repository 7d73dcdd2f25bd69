"""Hashes of the rows that identify a run: of JSON lists, which are made and hashed in parts."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.segment_table import SegmentTable, as_table, sort_by_id
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import ROWS_AT_ONCE, TextColumn
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import FileStatus, find_status


def hash_segments(
    segments: Iterable[Segment],
    more_phases: Sequence[str] = (),
    files: Mapping[str, FileStatus] | None = None,
) -> str:
    """Return the SHA-256 of the rows, their splits and the sizes of their videos.

    Neither the order of the rows nor the folder of the videos matters: a run that moved is the
    same run, a run on other videos is not.

    Args:
        segments: Rows.
        more_phases: Phases of the vocabulary that no row has; none leave the hash as it is.
        files: State of the videos; those that it lacks are asked for.

    Raises:
        UserError: A video does not exist.
    """
    table = as_table(segments)
    digest = _hash_list(_write_rows(table, _find_sizes(table.videos, files)))
    if more_phases:
        digest.update(json.dumps(list(more_phases)).encode())
    return digest.hexdigest()


def hash_segment_ids(table: SegmentTable) -> str:
    """Return the SHA-256 of the JSON list of the rows' ids, sorted."""
    parts = (map('"{}"'.format, part.list_ids()) for part in _sort_in_parts(table))
    return _hash_list(itertools.chain.from_iterable(parts)).hexdigest()


def _find_sizes(videos: TextColumn, files: Mapping[str, FileStatus] | None) -> NDArray[np.int64]:
    """Return the size of each of the texts that rows have, bytes."""
    found = find_status(videos.list_present(), files)
    sizes = np.zeros(len(videos.texts), dtype=np.int64)
    for number in videos.number_present().tolist():
        video = videos.texts[number]
        if video not in found:
            # as a file of no bytes, it would make the same rows another run
            raise UserError(f"{video} is gone since the table was read; restore it, or start again")
        sizes[number] = found[video].size_bytes
    return sizes


def _write_rows(table: SegmentTable, sizes: NDArray[np.int64]) -> Iterator[str]:
    for part in _sort_in_parts(table):
        own_sizes = sizes[part.videos.numbers].tolist()
        yield from map(
            '["{}", "{}", "{}", "{}", {}]'.format,
            part.list_ids(),
            part.cases,
            part.phases,
            part.splits,
            own_sizes,
        )


def _sort_in_parts(table: SegmentTable) -> Iterator[SegmentTable]:
    """Yield the rows by their ids, their texts as JSON writes them, without the quotes.

    Each distinct text is written once, and an id consists of the texts of its row.
    """
    order = sort_by_id(table)
    written = replace(
        table,
        names=table.names.map_texts(_escape),
        cases=table.cases.map_texts(_escape),
        phases=table.phases.map_texts(_escape),
        splits=table.splits.map_texts(_escape),
        hashes=None,
    )
    for first in range(0, len(order), ROWS_AT_ONCE):
        yield written.take(order[first : first + ROWS_AT_ONCE])


def _escape(text: str) -> str:
    return json.dumps(text)[1:-1]


def _hash_list(values: Iterable[str]) -> "hashlib._Hash":
    """Return the SHA-256 of a JSON list of values, which are JSON already."""
    digest, separator = hashlib.sha256(b"["), ""
    values = iter(values)
    while part := ", ".join(itertools.islice(values, ROWS_AT_ONCE)):
        digest.update(f"{separator}{part}".encode())
        separator = ", "
    digest.update(b"]")
    return digest
