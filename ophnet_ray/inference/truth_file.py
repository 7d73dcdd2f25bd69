"""Annotations that an evaluation scored against, kept beside its predictions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.annotated_videos import AnnotatedVideo, hash_truth
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.paths import check_text
from ophnet_ray.storage.records import dump_record, read_record


def write_truth(path: Path, videos: Sequence[AnnotatedVideo], split: str) -> None:
    """Write the segments of each video; a clip without an end has null."""
    content = {
        "annotations_sha256": hash_truth(videos),
        "split": split,
        "videos": [
            {
                "video_id": video.video_id,
                "case_id": video.case_id,
                "segments": [
                    [each.start_s, each.end_s if math.isfinite(each.end_s) else None, each.phase]
                    for each in video.segments
                ],
            }
            for video in videos
        ],
    }
    write_atomically(path, dump_record(content))


def read_truth(path: Path) -> list[AnnotatedVideo]:
    """Read the segments of each video; their videos are known by their ids alone.

    Raises:
        DamagedFileError: The file is damaged.
        UserError: An id holds characters that no name may hold.
        OSError: It cannot be read.
    """

    def build(content: Mapping[str, Any]) -> list[AnnotatedVideo]:
        return [_build_video(path, values) for values in content["videos"]]

    return read_record(path, build, "evaluate again")


def _build_video(path: Path, values: Mapping[str, Any]) -> AnnotatedVideo:
    video_id, case_id = str(values["video_id"]), str(values["case_id"])
    for each in (video_id, case_id):
        check_text(f"{path}:", each)
    return AnnotatedVideo(
        video_id,
        video_id,
        case_id,
        tuple(
            Segment(
                f"{video_id}:{number}",
                case_id,
                video_id,
                float(start_s),
                math.inf if end_s is None else float(end_s),
                str(phase),
            )
            for number, (start_s, end_s, phase) in enumerate(values["segments"])
        ),
    )
