"""Files of videos: the suffixes that are known, and the path of a video by its id or name."""

from pathlib import Path, PurePath

from ophnet_ray.storage.files import list_names
from ophnet_ray.storage.paths import absolute, is_remote, join

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


class VideoFinder:
    """Paths of videos in a folder, by ``video_id``; slow storage is listed only once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._by_stem: dict[str, str] | None = None

    def by_id(self, video_id: str) -> str:
        """Return the path of the video with this name; any known suffix."""
        if self._by_stem is None:
            self._by_stem = self._list()
        name = self._by_stem.get(video_id, f"{video_id}{VIDEO_SUFFIXES[0]}")
        return join(self.folder, name)

    def _list(self) -> dict[str, str]:
        names = [PurePath(name) for name in sorted(list_names(self.folder))]
        by_stem: dict[str, str] = {}
        for suffix in reversed(VIDEO_SUFFIXES):
            by_stem |= {p.stem: p.name for p in names if p.suffix.lower() == suffix}
        return by_stem

    def by_path(self, name: str) -> str:
        """Return a video's path, relative to the folder or else to the current directory."""
        if name.startswith("file://"):
            return absolute(name)
        path = join(self.folder, name)
        if is_remote(path) or Path(path).exists() or not Path(name).exists():
            return path
        return absolute(name)
