"""Content ids of videos, remembered beside the cache by path, size and time."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ophnet_ray.storage.contents import identify_content, identify_with_ends
from ophnet_ray.storage.files import FileStatus, write_atomically
from ophnet_ray.storage.paths import is_remote, plain_uri

_THREADS = 16

logger = logging.getLogger(__name__)


class FileVersion(NamedTuple):
    """A file as it was at one time; an object of a bucket has one name under every endpoint."""

    name: str
    size_bytes: int
    mtime_ns: int


class VideoIds:
    """Content ids of videos: an unchanged file is read once, and later costs one stat.

    Args:
        path: The JSON file of the memo, on this machine; written by ``identify``.
        identify: Reads a file and returns its id; None if it has none.
        ends: Memo of ``identify_ends``, which files on disk that are read here tell as well.
    """

    def __init__(
        self,
        path: Path,
        identify: Callable[[str, FileStatus], str | None] = identify_content,
        ends: "VideoIds | None" = None,
    ) -> None:
        self.path, self._identify, self._ends = path, identify, ends

    def identify(self, videos: Mapping[str, FileStatus]) -> dict[str, str]:
        """Return the content id of each video; those that cannot be read now have none."""
        versions = {video: version_of(video, status) for video, status in videos.items()}
        known = self._read()
        new = [video for video, version in versions.items() if version not in known]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="identify-videos") as pool:
            found = list(pool.map(lambda v: self._ids_or_none(v, videos[v]), new))
        added, ends = (
            {versions[video]: text for video, text in zip(new, texts, strict=True) if text}
            for texts in ([text for text, _ in found], [end for _, end in found])
        )
        if added:
            self._add(added)
        if ends and self._ends is not None:
            self._ends._add(ends)  # noqa: SLF001 - of the same class
        known |= added
        return {video: known[version] for video, version in versions.items() if version in known}

    def versions_by_id(self) -> dict[str, list[FileVersion]]:
        """Return all files that had a content, by its id: where it lies, and where it lay."""
        versions: dict[str, list[FileVersion]] = defaultdict(list)
        for version, text in self._read().items():
            versions[text].append(version)
        return versions

    def _read(self) -> dict[FileVersion, str]:
        try:
            rows = json.loads(self.path.read_bytes())["videos"]
            return {FileVersion(name, size, time): text for name, size, time, text in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be used (%r); the videos are read again", self.path, error)
            return {}

    def _add(self, added: Mapping[FileVersion, str]) -> None:
        """Write the memo; what another run adds simultaneously may be lost, and is read again."""
        rows = [[*version, text] for version, text in (self._read() | dict(added)).items()]
        try:
            write_atomically(self.path, json.dumps({"videos": rows}).encode())
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error)

    def _ids_or_none(self, video: str, status: FileStatus) -> tuple[str | None, str | None]:
        """Return the id of a video, and that of its ends if there is a memo of them."""
        try:
            if self._ends is not None:
                return identify_with_ends(video, status)
            return self._identify(video, status), None
        except OSError as error:
            logger.warning("%s cannot be identified by its content: %s", video, error)
            return None, None


def version_of(video: str, status: FileStatus) -> FileVersion:
    """Return the version of a video with this status."""
    name = plain_uri(video) if is_remote(video) else video
    return FileVersion(name, status.size_bytes, status.mtime_ns)
