"""Videos of folders and files, each under an id: its file name without the suffix."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from ophnet_ray.data.video_files import VIDEO_SUFFIXES
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import exists, list_names, stat_files
from ophnet_ray.storage.paths import (
    absolute,
    bucket_path,
    check_location,
    check_text,
    is_remote,
    join,
    name_of,
    stem_of,
)


def find_videos(given: Sequence[str]) -> dict[str, str]:
    """List the videos of ``--videos``: folders and files, local or in buckets.

    Returns:
        Paths by video id.

    Raises:
        UserError: A path does not exist, or there is no video.
    """
    paths: list[str] = []
    for name in given:
        check_location("--videos", name)
        path = absolute(name)
        if stat_files([path]):
            paths.append(path)
        elif is_remote(path) or exists(path):
            inside = [n for n in list_names(path) if n.lower().endswith(VIDEO_SUFFIXES)]
            for each in inside:
                check_text("--videos", each)  # ids are written and shown
            paths += stat_files([join(path, n) for n in sorted(inside)])
        else:
            raise UserError(f"--videos {name} does not exist")
    if not paths:
        raise UserError(f"--videos: no {', '.join(VIDEO_SUFFIXES)} file in {', '.join(given)}")
    return name_videos(paths)


def name_videos(videos: Sequence[str]) -> dict[str, str]:
    """Return paths by id: the file name without suffix, after its folders where names are equal.

    No more folders are named than tell the files apart: whole paths may name people.
    """
    stems: dict[str, list[str]] = {}
    for video in dict.fromkeys(videos):
        stems.setdefault(stem_of(video), []).append(video)
    named: dict[str, str] = {}
    for stem, same in stems.items():
        ids = [stem] if len(same) == 1 else _tell_apart(same)
        named |= zip(ids, same, strict=True)
    return named


def path_parts(video: str) -> tuple[str, ...]:
    """Return the folders of a video, of its path or its id, and its name without video suffix."""
    path = PurePosixPath(bucket_path(video) if is_remote(video) else video)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        path = path.with_suffix("")
    return path.parts[1:] if path.is_absolute() else path.parts


def _tell_apart(videos: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that differ, with suffixes where nothing else differs."""
    parts = [path_parts(video) for video in videos]
    with_suffix = [(*own[:-1], name_of(video)) for own, video in zip(parts, videos, strict=True)]
    for candidates in (parts, with_suffix):
        for depth in range(2, max(map(len, candidates)) + 1):
            ids = ["/".join(own[-depth:]) for own in candidates]
            if len(set(ids)) == len(ids):
                return ids
    return list(videos)  # in buckets of one name
