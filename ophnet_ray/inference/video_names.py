"""Videos of folders and files, each under an id: its file name without the suffix."""

from collections.abc import Sequence
from pathlib import Path

from ophnet_ray.data.video_files import VIDEO_SUFFIXES
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import list_names, stat_files
from ophnet_ray.storage.paths import absolute, check_location, is_remote, join, stem_of


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
        elif is_remote(path) or Path(path).is_dir():
            inside = [n for n in list_names(path) if n.lower().endswith(VIDEO_SUFFIXES)]
            paths += stat_files([join(path, n) for n in sorted(inside)])
        else:
            raise UserError(f"--videos {name} does not exist")
    if not paths:
        raise UserError(f"--videos: no {', '.join(VIDEO_SUFFIXES)} file in {', '.join(given)}")
    return name_videos(paths)


def name_videos(videos: Sequence[str]) -> dict[str, str]:
    """Return paths by id: the file name without suffix, or the path where two files share it."""
    stems: dict[str, list[str]] = {}
    for video in dict.fromkeys(videos):
        stems.setdefault(stem_of(video), []).append(video)
    return {
        stem if len(same) == 1 else video: video for stem, same in stems.items() for video in same
    }
