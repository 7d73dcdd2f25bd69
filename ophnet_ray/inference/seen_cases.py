"""Cases of a table on which a checkpoint, or its origin, was trained, under whatever names."""

from collections.abc import Sequence

from ophnet_ray.data.duplicates import find_known_videos
from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.split_choice import find_seen_cases
from ophnet_ray.models.payload import CheckpointPayload


def find_trained_cases(rows: Sequence[Segment], payload: CheckpointPayload) -> list[str]:
    """Return the cases that were trained on, by pseudonym or the content of their videos, sorted.

    A checkpoint that is too old to tell them has none.
    """
    known = set(find_known_videos({row.video for row in rows}, payload.seen_video_hashes or ()))
    seen = {row.case_id for row in rows if row.video in known}
    return sorted(seen | set(find_seen_cases(rows, payload)))
