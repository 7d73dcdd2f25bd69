"""Durations: the annotated video that segments stand for where a score counts time, not windows.

``evaluate`` counts the frame times of a video, each under one label. So a segment stands for its
annotated time up to the end of its video, without what a segment that starts later covers. Its
windows share that time equally: the snippets of a segment are spread over equal parts of it, and
the windows of a snippet overlap. Time between segments belongs to none. A clip without annotated
times stands for all of itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_rows import ManifestRows
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.container import VideoError, open_video
from ophnet_ray.data.video.decoder import read_video_index
from ophnet_ray.errors import UserError

_THREADS = 4


def add_val_durations(
    manifest: Manifest,
    spool_dir: str | None = None,
    known_ends_s: Mapping[str, float] = MappingProxyType({}),
) -> Manifest:
    """Add the durations of the validation segments to a manifest.

    Args:
        manifest: Usable segments.
        spool_dir: See ``open_source``, for videos in a bucket.
        known_ends_s: Seconds at which videos end, from ``read_ends``: these are not read again.

    Raises:
        UserError: A video whose end is needed cannot be read.
    """
    rows = manifest.of_split("val")
    unknown = _videos_to_read(rows) - known_ends_s.keys()
    ends_s = {**known_ends_s, **_read_all(unknown, spool_dir)}
    durations = measure_durations(rows.segments, ends_s)
    return replace(manifest, val_durations=durations)


def read_ends(rows: ManifestRows, spool_dir: str | None = None) -> dict[str, float]:
    """Read the seconds at which videos end, by their paths, where durations depend on them.

    These are the videos of clips, and of segments that are annotated beyond the end of their video;
    they are not decoded.

    Args:
        rows: Usable segments.
        spool_dir: See ``open_source``, for videos in a bucket.

    Raises:
        UserError: One of these videos cannot be read.
    """
    return _read_all(_videos_to_read(rows), spool_dir)


def measure_durations(
    segments: Sequence[Segment], ends_s: Mapping[str, float]
) -> NDArray[np.int64]:
    """Measure the milliseconds of video that count under the label of each segment, int64 (N,).

    Where segments overlap, the time is that of the one that starts later; of those that start
    together, of the shorter one, as in ``timelines.label_times``. So no time counts twice, and a
    segment that others cover has none.

    Args:
        segments: Segments of one split.
        ends_s: Seconds at which videos end, by their paths; others end after their segments.
    """
    table = as_table(segments)
    starts_s, annotated_ends_s = table.starts_s.tolist(), table.ends_s.tolist()
    numbers_of: dict[str, list[int]] = {}
    for number, video in enumerate(table.videos):
        numbers_of.setdefault(video, []).append(number)
    durations = np.zeros(len(table), dtype=np.int64)
    for video, numbers in numbers_of.items():
        end_s = ends_s.get(video, math.inf)
        # precedence is that of the annotated times, before the video cuts them
        numbers.sort(key=lambda i: (starts_s[i], -annotated_ends_s[i]))
        times = [(starts_s[i], min(annotated_ends_s[i], end_s)) for i in numbers]
        for number, seconds in zip(numbers, _share_time(times), strict=True):
            # the shortest segments count, too
            durations[number] = max(round(seconds * 1000), 1) if seconds > 0 else 0
    return durations


def _share_time(intervals: Sequence[tuple[float, float]]) -> list[float]:
    """Return the seconds of each interval that no later one covers; they ascend by their starts."""
    own = [0.0] * len(intervals)
    # disjoint parts that later intervals cover, the earliest last
    covered: list[tuple[float, float]] = []
    for number in reversed(range(len(intervals))):
        start_s, end_s = intervals[number]
        left_s, stop_s = end_s - start_s, end_s
        while covered and covered[-1][0] < end_s:
            first_s, last_s = covered.pop()
            left_s -= min(last_s, end_s) - first_s
            stop_s = max(stop_s, last_s)
        covered.append((start_s, stop_s))
        own[number] = left_s
    return own


def _videos_to_read(rows: ManifestRows) -> set[str]:
    needs_end = rows.entries.are_set("is_truncated") | np.isinf(rows.segments.ends_s)
    return set(rows.segments.videos.take(needs_end).list_present())


def _read_all(videos: Iterable[str], spool_dir: str | None) -> dict[str, float]:
    """Read the seconds at which videos end: a mean frame period after their last frame."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(pool.map(lambda video: (video, _read_end(video, spool_dir)), sorted(videos)))


def _read_end(video: str, spool_dir: str | None) -> float:
    try:
        with open_video(video, spool_dir) as source:
            times_s = read_video_index(source).times_s
    except VideoError as error:
        raise UserError(
            f"{video} {error}; a score of frames needs its length: restore the file, or "
            "let a score of windows choose the epoch: --checkpoint_metric (tune.py: --metric)"
        ) from error
    last_s = float(times_s[-1])
    return last_s + last_s / max(len(times_s) - 1, 1)
