"""Files of videos: the suffixes that are known, and the path of a video by its id or name."""

import os
from contextlib import suppress
from pathlib import Path, PurePath

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import exists, list_names
from ophnet_ray.storage.paths import (
    absolute,
    bucket_of,
    bucket_path,
    is_remote,
    join,
    options_of,
    parent_of,
    plain_uri,
    with_options_of,
)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


class VideoFinder:
    """Paths of videos in a folder, by ``video_id``; slow storage is listed only once.

    Args:
        folder: Folder of the videos, absolute or a URI.
        root: Folder or bucket that no video may lie outside of, links followed; None for no limit.

    Raises:
        UserError: The folder exists and cannot be read.
    """

    def __init__(self, folder: str, root: str | None = None) -> None:
        self.folder, self.root = folder, root
        self._by_id: dict[str, str] | None = None
        self._found: dict[str, str] = {}
        self._below: dict[str, bool] = {}
        self._plain: set[str] = set()
        if exists(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(f"folder {folder} cannot be read: permission denied; check --video_dir")

    def by_id(self, video_id: str) -> str:
        """Return the path of the video with this name: with any known suffix, or that in the id."""
        if video_id not in self._found:
            if self._by_id is None:
                self._by_id = self._list()
            name = self._by_id.get(video_id, f"{video_id}{VIDEO_SUFFIXES[0]}")
            self._found[video_id] = self._admit(join(self.folder, name))
        return self._found[video_id]

    def _list(self) -> dict[str, str]:
        names = [PurePath(name) for name in sorted(list_names(self.folder))]
        if not is_remote(self.folder):
            with suppress(OSError), os.scandir(self.folder) as files:
                # the listing tells links, which else takes a request per file
                self._plain = {file.path for file in files if not file.is_symlink()}
        # some tables write the suffix into the id
        by_id = {p.name: p.name for p in names if p.suffix.lower() in VIDEO_SUFFIXES}
        for suffix in reversed(VIDEO_SUFFIXES):
            by_id |= {p.stem: p.name for p in names if p.suffix.lower() == suffix}
        return by_id

    def by_path(self, name: str) -> str:
        """Return a video's path, relative to the folder or else to the current directory.

        Raises:
            UserError: It lies outside of the root, or is a URI with options.
        """
        if name not in self._found:
            self._found[name] = self._find_path(name)
        return self._found[name]

    def _find_path(self, name: str) -> str:
        if name.startswith("file://"):
            return self._admit(absolute(name))
        if is_remote(name) and options_of(name):
            # an endpoint of the table's author would get requests signed with this user's keys
            raise UserError("a URI in a table takes no options; give them with --video_dir")
        path = join(self.folder, name)
        if is_remote(path) or exists(path) or not exists(name):
            return self._admit(path)
        return self._admit(absolute(name))

    def _admit(self, path: str) -> str:
        if is_remote(path) and is_remote(self.folder) and is_below(path, bucket_of(self.folder)):
            path = with_options_of(path, self.folder)
        if self.root is not None and not self._is_below(path, self.root):
            raise UserError(
                f"{path} lies outside of {plain_uri(self.root)}; give another --video_dir, or "
                "--allow_outside if you trust the table"
            )
        return path

    def _is_below(self, path: str, root: str) -> bool:
        """Return ``is_below``; the links of a folder are followed once, not for each file in it."""
        if is_remote(path):
            return is_below(path, root)
        folder, name = os.path.split(path)
        is_plain = path in self._plain or not os.path.islink(path)  # noqa: PTH114 - a Path costs
        if name in ("", "..", ".") or not is_plain:
            return is_below(path, root)
        if folder not in self._below:
            self._below[folder] = is_below(folder, root)
        return self._below[folder] or is_below(path, root)


def root_of(csv_path: str, video_dir: str | None) -> str:
    """Return the folder that the videos of a table must not leave.

    It is the folder of the videos; without one, the folder of the table or its bucket.

    Args:
        csv_path: The table, absolute or a URI.
        video_dir: Folder of the videos, absolute or a URI.
    """
    if video_dir is not None:
        return video_dir
    return bucket_of(csv_path) if is_remote(csv_path) else parent_of(csv_path)


def is_below(path: str, root: str) -> bool:
    """Return True if a file lies in a folder or below it, after links are followed.

    A file of a bucket lies below no local folder, and the reverse.
    """
    if is_remote(path) != is_remote(root):
        return False
    if not is_remote(path):
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    parts = [PurePath(f"{uri.partition('://')[0]}/{bucket_path(uri)}") for uri in (path, root)]
    return parts[0].is_relative_to(parts[1]) and ".." not in parts[0].parts
