"""Rows of a run: those whose videos exist, those whose videos do not, and a hash of the former."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ophnet_ray.data.annotations import Reject, Segment
from ophnet_ray.storage.files import stat_files


@dataclass(frozen=True, slots=True)
class RunData:
    """The rows that a run or a search works on.

    ``segments``: rows whose videos exist, with their splits; ``missing``: the other rows;
    ``data_hash``: see ``hash_segments``.
    """

    segments: tuple[Segment, ...]
    missing: tuple[Reject, ...]
    data_hash: str

    @classmethod
    def of_rows(cls, segments: Sequence[Segment], missing: Sequence[Reject] = ()) -> Self:
        """Collect rows and hash those whose videos exist."""
        return cls(tuple(segments), tuple(missing), hash_segments(segments))


def hash_segments(segments: Sequence[Segment]) -> str:
    """Return the SHA-256 of the rows, their splits and the sizes of their videos.

    Neither the order of the rows nor the folder of the videos matters: a run that moved is the
    same run, a run on other videos is not. Every video must exist.
    """
    found = stat_files({s.video for s in segments})
    rows = sorted(
        (s.segment_id, s.case_id, s.phase, s.split, found[s.video].size_bytes) for s in segments
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
