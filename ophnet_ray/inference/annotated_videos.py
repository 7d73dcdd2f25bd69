"""Videos of a split with their annotated segments: the truth for scoring predictions."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ophnet_ray.data.duplicates import read_content_ids
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.inference.video_names import name_videos, path_parts

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
    return hash_rows(segment for video in videos for segment in video.segments)


def hash_rows(segments: Iterable[Segment]) -> str:
    """Return the SHA-256 of rows, whatever their order."""
    rows = sorted(segment.segment_id for segment in segments)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MatchedPredictions:
    """Prediction of each video by its id, and the reasons of the videos without one."""

    found: dict[str, VideoPrediction]
    missing: dict[str, str]


def match_predictions(
    videos: Sequence[AnnotatedVideo], predictions: Sequence[VideoPrediction], source: str
) -> MatchedPredictions:
    """Find the prediction of each video: that of a file with the same content.

    Content is not compared where a video cannot be read, or an older version wrote the predictions.
    There, ids are: file names or, where two videos of one command share the name, the ends of their
    paths. If the id is another, because a video has its name to itself here alone, the prediction
    whose path has the same file name and folder is taken, if there is a single one.

    Args:
        videos: Videos of the annotations.
        predictions: All predictions of a file.
        source: Name of that file, for the reasons.
    """
    by_content: dict[str, list[VideoPrediction]] = defaultdict(list)
    for prediction in predictions:
        if prediction.content_id:
            by_content[prediction.content_id].append(prediction)
    content_ids = read_content_ids(video.video for video in videos) if by_content else {}
    matched = MatchedPredictions({}, {})
    for video in videos:
        content_id = content_ids.get(video.video, "")
        if content_id in by_content:
            # equal files have equal predictions; the one of the same name is the first choice
            same = by_content[content_id]
            matched.found[video.video_id] = _find_by_name(video, same) or same[0]
            continue
        found = _find_by_name(video, predictions)
        if found is None:
            matched.missing[video.video_id] = f"no prediction in {source}"
        elif content_id and found.content_id:
            reason = f"the prediction in {source} is of another file of this name"
            matched.missing[video.video_id] = reason
        else:
            matched.found[video.video_id] = found
    return matched


def _find_by_name(
    video: AnnotatedVideo, predictions: Sequence[VideoPrediction]
) -> VideoPrediction | None:
    for prediction in predictions:
        if prediction.video_id == video.video_id:
            return prediction
    parts = path_parts(video.video)
    shared = [_count_shared_ends(parts, path_parts(each.video_id)) for each in predictions]
    most = max(shared, default=0)
    is_clear = most >= MIN_SHARED_PARTS and shared.count(most) == 1
    return predictions[shared.index(most)] if is_clear else None


def _count_shared_ends(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the equal last parts of two paths."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
