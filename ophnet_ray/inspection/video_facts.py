"""Facts of one video: its stream, the frames of its rows, a few pictures, the cost of decoding."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.duplicates import read_content_ids
from ophnet_ray.data.segments import RejectKind, Segment
from ophnet_ray.data.video.blocks import decode_segments, plan_segment
from ophnet_ray.data.video.container import (
    VideoError,
    VideoSource,
    open_container,
    open_video,
    video_stream,
)
from ophnet_ray.data.video.decoder import Frame, decode_frames, read_video_index
from ophnet_ray.data.video.hang_guard import end_hanging_process
from ophnet_ray.data.video.index import VideoIndex, frames_shown_at, plan_spans
from ophnet_ray.errors import last_line
from ophnet_ray.inference.worst_frames import to_jpeg
from ophnet_ray.inspection.borders import Borders, find_borders
from ophnet_ray.inspection.truncation import is_cut_mp4, lost_seconds
from ophnet_ray.storage.contents import identify_content
from ophnet_ray.storage.files import FileStatus, stat_files
from ophnet_ray.storage.paths import is_remote

logger = logging.getLogger(__name__)

PROBED_SHARES = (0.1, 0.5, 0.9)
"""Places in a video whose frames are decoded, beside its last frame and those of the page."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class VideoTask:
    """A video to look at.

    ``picture_times_s``: times of the frames that the page shows; ``decodes_all``: decode every
    segment, as a run would; ``spool_dir``: see ``open_source``, for a video in a bucket.
    """

    video: str
    segments: tuple[Segment, ...]
    windows: WindowConfig
    picture_times_s: tuple[float, ...] = ()
    decodes_all: bool = False
    spool_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """Facts that container and packets of a video state.

    ``frame_rate``: frames per second, the median; ``duration_s``: from the first frame to the end
    of the last; ``lost_s``: seconds that the header promises and the packets do not hold;
    ``has_odd_metadata``: a title or comment is no UTF-8.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    num_frames: int
    frame_rate: float
    duration_s: float
    lost_s: float | None
    has_odd_metadata: bool


@dataclass(frozen=True, slots=True)
class RowFacts:
    """Use of one row: its frames, the blocks that a run reads, or the reason why there are none."""

    num_frames: int = 0
    num_blocks: int = 0
    is_truncated: bool = False
    reason: str = ""
    kind: RejectKind | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """Frames decoded, and the CPU seconds that they took."""

    num_frames: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """Everything that was learnt of a video.

    ``content_id``: size and a hash of both ends, the same in a bucket and on disk; ``samples_id``:
    see ``identify_content``; ``reason`` and ``kind``: why it cannot be read; ``is_cut``: the end of
    the file is missing; ``rows``: by segment, in the order of the task; ``pictures``: JPEGs by the
    time that was asked for; ``lost_frames_s``: times of probed frames that do not decode;
    ``decode_s``: CPU seconds that decoding the rows of training and validation takes, estimated
    from the probed frames.
    """

    video: str
    size_bytes: int = 0
    content_id: str = ""
    samples_id: str = ""
    reason: str = ""
    kind: RejectKind | None = None
    is_cut: bool = False
    stream: StreamFacts | None = None
    rows: tuple[RowFacts, ...] = ()
    pictures: tuple[tuple[float, bytes], ...] = ()
    borders: Borders | None = None
    lost_frames_s: tuple[float, ...] = ()
    decode_s: float = 0.0


InspectAll = Callable[[Sequence[VideoTask]], Iterator[VideoFacts]]
"""A function that looks at videos in parallel and yields their facts in any order."""


def inspect_video(task: VideoTask) -> VideoFacts:
    """Read the container, the packets and a few frames of a video; never raises for its content."""
    status = stat_files([task.video]).get(task.video)
    if status is None:
        return VideoFacts(video=task.video, reason="does not exist", kind="missing")
    identity: dict[str, Any] = {
        "video": task.video,
        "size_bytes": status.size_bytes,
        "content_id": read_content_ids([task.video]).get(task.video, ""),
        "samples_id": _identify(task.video, status),
    }
    try:
        if is_remote(task.video) and task.spool_dir:
            Path(task.spool_dir).mkdir(parents=True, exist_ok=True)
        with open_video(task.video, task.spool_dir) as source:
            return VideoFacts(**identity, **_read_source(task, source))
    except VideoError as error:
        reason, kind = str(error), error.kind
    except Exception as error:  # one odd video costs no other its facts
        logger.exception("%s cannot be inspected", task.video)
        reason, kind = f"{type(error).__name__}: {last_line(error) or 'no message'}", "unreadable"
    is_cut = _is_cut(task, status.size_bytes)
    return VideoFacts(**identity, reason=reason, kind=kind, is_cut=is_cut)


def inspect_in_worker(task: VideoTask) -> VideoFacts:
    """Look at a video in a process whose end is survived: it ends if the codec does not return."""
    with end_hanging_process():
        return inspect_video(task)


def _identify(video: str, status: FileStatus) -> str:
    try:
        return identify_content(video, status) or ""
    except OSError:
        return ""


def _read_source(task: VideoTask, source: VideoSource) -> dict[str, Any]:
    """Return the fields of ``VideoFacts`` that come from the content of the video."""
    index = read_video_index(source)
    stream = _read_stream(source, index)
    plans = [plan_segment(segment, index, task.windows) for segment in task.segments]
    rows = tuple(
        RowFacts(
            num_frames=len(index.frames_between(segment.start_s, segment.end_s)),
            num_blocks=len(plan.blocks),
            is_truncated=plan.is_truncated,
            reason=plan.reason,
            kind="outside the video" if plan.reason else None,
        )
        for segment, plan in zip(task.segments, plans, strict=True)
    )
    shown = frames_shown_at(index.times_s, np.asarray(task.picture_times_s))
    probed, decoding = _decode_probed(source, index, shown)
    wanted = [
        i
        for segment, plan in zip(task.segments, plans, strict=True)
        for block in plan.blocks
        for i in block
        if segment.split != "test"  # a training run does not decode it
    ]
    to_decode = _count_decoded(index, np.unique(np.asarray(wanted, dtype=np.int64)))
    if task.decodes_all:
        rows = _decode_rows(task, rows)
    pictures = {
        time_s: to_jpeg(_upright(probed[frame]))
        for time_s, frame in zip(task.picture_times_s, shown.tolist(), strict=True)
        if frame in probed
    }
    lost = [i for i in _choose_probed(index, shown).tolist() if i not in probed]
    return {
        "stream": stream,
        "rows": rows,
        "pictures": tuple(pictures.items()),
        "borders": find_borders([_upright(frame) for frame in probed.values()]),
        "lost_frames_s": tuple(float(index.times_s[i]) for i in lost),
        "decode_s": to_decode * decoding.cpu_s / max(decoding.num_frames, 1),
    }


def _read_stream(source: VideoSource, index: VideoIndex) -> StreamFacts:
    times_s = index.times_s
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    duration_s = float(times_s[-1]) + step_s
    with open_container(source) as container:
        stream, codec = video_stream(container), video_stream(container).codec_context
        promised_s = None
        if stream.frames and step_s:
            # the frames that are there may have any intervals
            promised_s = duration_s + (stream.frames - len(times_s)) * step_s
        elif stream.duration is not None and stream.time_base is not None:
            promised_s = float(stream.duration * stream.time_base)
        elif container.duration is not None and len(container.streams) == 1:
            # Matroska counts from time 0, the frames that are found from the first of them
            promised_s = (container.duration - max(container.start_time or 0, 0)) / 1e6
        texts = [*container.metadata.values(), *stream.metadata.values()]
        return StreamFacts(
            codec=codec.name,
            pixel_format=codec.pix_fmt or "",
            width=codec.width,
            height=codec.height,
            num_frames=len(times_s),
            frame_rate=1 / step_s if step_s else 0.0,
            duration_s=duration_s,
            lost_s=lost_seconds(promised_s, duration_s),
            has_odd_metadata=any(REPLACEMENT in text for text in texts),
        )


def _choose_probed(index: VideoIndex, shown: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the frames to decode, ascending: a few over the video, the last, and those shown."""
    last = len(index.times_s) - 1
    return np.unique([*(int(share * last) for share in PROBED_SHARES), last, *shown.tolist()])


def _decode_probed(
    source: VideoSource, index: VideoIndex, shown: NDArray[np.int64]
) -> tuple[dict[int, Frame], Decoding]:
    wanted = _choose_probed(index, shown)
    started_s = time.thread_time()
    frames = {frame.index: frame for frame in decode_frames(source, index, wanted)}
    cpu_s = time.thread_time() - started_s
    return frames, Decoding(_count_decoded(index, wanted), cpu_s)


def _count_decoded(index: VideoIndex, wanted: NDArray[np.int64]) -> int:
    """Count the frames that a decoder goes through for the wanted ones."""
    if not len(wanted):
        return 0
    count, reached = 0, 0
    for span in plan_spans(index, wanted):
        if span.key is not None:
            reached = int(np.searchsorted(index.pts, index.key_pts[span.key]))
        stop = int(span.wanted[-1]) + 1
        count, reached = count + stop - reached, stop
    return count


def _decode_rows(task: VideoTask, rows: Collection[RowFacts]) -> tuple[RowFacts, ...]:
    """Decode all rows as a run does; return what came of each."""
    found = list(rows)
    for number, blocks in decode_segments(task.video, task.segments, task.windows, task.spool_dir):
        found[number] = RowFacts(
            num_frames=found[number].num_frames,
            num_blocks=len(blocks.pixels),
            is_truncated=blocks.is_truncated,
            reason=blocks.reason,
            kind=blocks.kind,
        )
    return tuple(found)


def _upright(frame: Frame) -> NDArray[np.uint8]:
    return np.rot90(frame.pixels, frame.quarter_turns)


def _is_cut(task: VideoTask, size_bytes: int) -> bool:
    try:
        with open_video(task.video, task.spool_dir) as source:
            return is_cut_mp4(source, size_bytes)
    except (VideoError, OSError):
        return False
