"""Keys of segments in the cache: hashes of all that their blocks depend on."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.key_columns import KEY_BYTES, KeyColumns
from ophnet_ray.data.cache.video_ids import VideoIds, version_of
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.text_column import ROWS_AT_ONCE
from ophnet_ray.data.video.blocks import RESIZE_FILTER
from ophnet_ray.data.windows import snippet_frames
from ophnet_ray.storage.files import FileStatus, find_status

FORMAT_VERSION = 3


def sampling_of(windows: WindowConfig) -> tuple[int | str, ...]:
    """Return the settings that determine the decoded blocks; equal values share cache entries."""
    w = windows
    # means have the keys that they had before there were other pictures
    kind = () if w.stored_image == "mean" else (w.stored_image,)
    return w.stride, w.max_frames, w.coverage, snippet_frames(w), w.image_size, RESIZE_FILTER, *kind


def describe_sampling(windows: WindowConfig) -> str:
    """Return these settings as text for ``hash_key``."""
    return json.dumps(list(sampling_of(windows)))


def hash_key(identity: str, start_s: float, end_s: float, sampling: str) -> bytes:
    """Return the key of a segment: a hash of one JSON list, of which two parts are text already."""
    if type(start_s) is type(end_s) is float and math.isfinite(end_s):
        interval = f"{start_s!r}, {end_s!r}"  # as JSON writes it, at a third of the time
    else:
        interval = json.dumps([start_s, end_s])[1:-1]
    text = f"[{FORMAT_VERSION}, {identity}, {interval}, {sampling}]"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


class KeySource:
    """Keys of segments under one sampling.

    Args:
        video_ids: Content ids of the videos.
        sampling: See ``describe_sampling``.
    """

    def __init__(self, video_ids: VideoIds, sampling: str) -> None:
        self._video_ids, self._sampling = video_ids, sampling

    def find_keys(
        self, table: SegmentTable, files: Mapping[str, FileStatus] | None = None
    ) -> KeyColumns:
        """Return the key of each segment; see ``BlockCache.keys_of``."""
        files = find_status(table.videos.list_present(), files)
        ids = self._video_ids.identify(files)
        texts = {
            video: json.dumps([ids[video]] if video in ids else version_of(video, status))
            for video, status in files.items()
        }
        keys = bytearray()
        for video, start_s, end_s in _read_intervals(table):
            keys += hash_key(texts[video], start_s, end_s, self._sampling)
        return KeyColumns.of_bytes(keys)

    def find_keys_by_path(
        self, table: SegmentTable, files: Mapping[str, FileStatus] | None = None
    ) -> tuple[NDArray[np.int64], KeyColumns]:
        """Return the keys that earlier versions had for segments, and the row of each.

        They knew a video by path, size and time; its content may have had several paths.
        """
        files = find_status(table.videos.list_present(), files)
        ids = self._video_ids.identify(files)
        versions = self._video_ids.versions_by_id()
        texts = {
            video: [
                json.dumps(version)
                # as it is now, and each as it was
                for version in dict.fromkeys(
                    (version_of(video, status), *versions.get(ids.get(video, ""), ()))
                )
            ]
            for video, status in files.items()
        }
        keys = bytearray()
        for video, start_s, end_s in _read_intervals(table):
            for text in texts[video]:
                keys += hash_key(text, start_s, end_s, self._sampling)
        counts = [len(texts[video]) for video in table.videos]
        return np.repeat(np.arange(len(table)), counts), KeyColumns.of_bytes(keys)


def _read_intervals(table: SegmentTable) -> Iterator[tuple[str, float, float]]:
    """Yield video, start and end of each row; few rows are objects at a time."""
    for first in range(0, len(table), ROWS_AT_ONCE):
        part = table[first : first + ROWS_AT_ONCE]
        yield from zip(part.videos, part.starts_s.tolist(), part.ends_s.tolist(), strict=True)
