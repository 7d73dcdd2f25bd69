"""Videos of a split with their annotated segments: the truth for scoring predictions."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ophnet_ray.data.annotations import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.inference.video_names import name_videos

MIN_SHARED_PARTS = 2
"""Parts of a path, folder and file name, that identify a video."""


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """A video and its segments of one split."""

    video_id: str
    video: str
    case_id: str
    segments: tuple[Segment, ...]


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


def hash_truth(videos: Sequence[AnnotatedVideo]) -> str:
    """Return the SHA-256 of the annotations that were scored against."""
    rows = sorted(segment.segment_id for video in videos for segment in video.segments)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def match_predictions(
    videos: Sequence[AnnotatedVideo], predictions: Mapping[str, VideoPrediction]
) -> dict[str, VideoPrediction]:
    """Return the prediction of each video by its id; videos without one are left out.

    An id is a file name or, where two videos of one command share the name, a path. So ``predict``
    may have given a path to a video that has its name to itself in the split. Then the prediction
    whose path has the same file name and folder is taken, if there is a single one.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for prediction_id in predictions:
        by_name[PurePosixPath(prediction_id).name].append(prediction_id)
    matched = {}
    for video in videos:
        found = predictions.get(video.video_id) or _find_by_path(video, by_name, predictions)
        if found is not None:
            matched[video.video_id] = found
    return matched


def _find_by_path(
    video: AnnotatedVideo,
    by_name: Mapping[str, Sequence[str]],
    predictions: Mapping[str, VideoPrediction],
) -> VideoPrediction | None:
    parts = PurePosixPath(video.video).parts
    shared = {
        prediction_id: _count_shared_ends(parts, PurePosixPath(prediction_id).parts)
        for prediction_id in by_name.get(parts[-1], ())
    }
    most = max(shared.values(), default=0)
    best = [prediction_id for prediction_id, count in shared.items() if count == most]
    return predictions[best[0]] if most >= MIN_SHARED_PARTS and len(best) == 1 else None


def _count_shared_ends(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the equal last parts of two paths."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
