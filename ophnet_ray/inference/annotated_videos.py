"""Videos of a split with their annotated segments: the truth for scoring predictions."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.video_names import name_videos


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """A video and its segments of one split."""

    video_id: str
    video: str
    case_id: str
    segments: tuple[Segment, ...]


def choose_split(
    segments: Sequence[Segment], split: str, val_fraction: float, seed: int
) -> list[Segment]:
    """Return the segments of a split: the CSV's own, or the one that training makes of these rows.

    Args:
        segments: All rows.
        split: ``train``, ``val``, ``test`` or ``all``.
        val_fraction: Setting of the training run.
        seed: Setting of the training run.

    Raises:
        UserError: The split has no rows.
    """
    if split == "all":
        return list(segments)
    assigned = assign_splits(segments, val_fraction, seed)
    chosen = [segment for segment in assigned if segment.split == split]
    if not chosen:
        found = ", ".join(sorted({segment.split for segment in assigned}))
        raise UserError(f"--split {split}: the CSV has no such rows; it has {found}, or give all")
    return chosen


def group_by_video(segments: Sequence[Segment], phases: Sequence[str]) -> list[AnnotatedVideo]:
    """Group segments by video, in the order of the CSV.

    Raises:
        UserError: A phase is not one of the model's.
    """
    unknown = {segment.phase for segment in segments} - set(phases)
    if unknown:
        raise UserError(
            f"the checkpoint does not know phase {sorted(unknown)[0]!r} of the CSV; it has "
            f"{', '.join(phases[:10])}{' …' if len(phases) > 10 else ''}"
        )
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_video[segment.video].append(segment)
    return [
        AnnotatedVideo(video_id, video, by_video[video][0].case_id, tuple(by_video[video]))
        for video_id, video in name_videos(list(by_video)).items()
    ]


def find_seen_cases(videos: Sequence[AnnotatedVideo], case_hashes: Sequence[str]) -> list[str]:
    """Return the cases that the checkpoint was trained on, by their pseudonyms."""
    seen = set(case_hashes)
    return sorted({video.case_id for video in videos if hash_case(video.case_id) in seen})


def hash_truth(videos: Sequence[AnnotatedVideo]) -> str:
    """Return the SHA-256 of the annotations that were scored against."""
    rows = sorted(segment.segment_id for video in videos for segment in video.segments)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
