"""Segment and reject: a row of an annotation table, and a row that is not used."""

from dataclasses import dataclass
from typing import Literal

SPLITS = ("train", "val", "test")

RejectKind = Literal["missing", "unreadable", "damaged", "outside the video", "other"]
"""Cause of a reject in a word that holds nothing of the file; ``other``: it was not recorded."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotated interval ``[start_s, end_s)`` of one phase in one video.

    A trimmed clip has ``start_s=0, end_s=inf``. ``split`` is empty until it is assigned.
    ``segment_id`` is unique in its table and depends on the row alone, not on its position.
    """

    segment_id: str
    case_id: str
    video: str
    start_s: float
    end_s: float
    phase: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not used, and why: ``reason`` for people, ``kind`` for counts."""

    segment: Segment
    reason: str
    kind: RejectKind
