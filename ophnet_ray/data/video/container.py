"""An open video file: its container, its video stream and its packets."""

import errno
import itertools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ophnet_ray.data.segments import RejectKind
from ophnet_ray.data.video.hang_guard import codec_at_work, note_progress
from ophnet_ray.data.video.index import VideoIndex
from ophnet_ray.storage.files import COPY_BYTES
from ophnet_ray.storage.paths import is_remote
from ophnet_ray.storage.range_reader import RangeReader, open_source

logger = logging.getLogger(__name__)

CODEC_VERSIONS = {
    name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())
}
"""Versions of the codec's libraries: another one may read what this one cannot."""

Packets = Iterator["av.Packet[Any]"]
VideoSource = str | Path | RangeReader
"""A video file, or an open object of a bucket (see ``open_video``)."""

# fmt: off
DECODERS = frozenset((
    "av1", "dvvideo", "ffv1", "h263", "h264", "hevc", "huffyuv", "libaom-av1", "libdav1d", "libvpx",
    "libvpx-vp9", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v2", "prores",
    "rawvideo", "utvideo", "vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3",
))
# fmt: on
"""Decoders of surgical video. FFmpeg has hundreds of others, for formats that few people test."""
MAX_PIXELS = 8192 * 8192
"""Largest picture: 8K video with room. A small file may unpack to pictures of gigabytes."""

# A playlist format would let a "video" read other files of the machine.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "codec_whitelist": ",".join(sorted(DECODERS)),
    "max_pixels": str(MAX_PIXELS),
}


class VideoError(Exception):
    """Failure to read a video or a part of it; ``str(error)`` is the reason in one line.

    ``is_permanent`` separates what the file holds from what may be otherwise the next time: no
    permission, too many open files, storage that does not answer.
    """

    def __init__(
        self, reason: str, *, kind: RejectKind = "unreadable", is_permanent: bool = True
    ) -> None:
        super().__init__(reason)
        self.kind, self.is_permanent = kind, is_permanent


@contextmanager
def open_video(path: str | Path, spool_dir: str | None = None) -> Iterator[VideoSource]:
    """Open a video once for several passes over it; a local file stays a path.

    Raises:
        VideoError: The bucket does not return it.
    """
    with ExitStack() as opened:
        try:
            source = opened.enter_context(open_source(path, spool_dir))
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            raise VideoError(
                f"cannot be opened ({error})",
                kind="missing" if is_missing else "unreadable",
                is_permanent=False,
            ) from error
        yield source


def open_container(path: VideoSource) -> InputContainer:
    """Open a video for one pass on one thread.

    Raises:
        VideoError: It cannot be opened, or holds no video stream that can be decoded.
    """
    try:
        if isinstance(path, RangeReader):
            path.seek(0)
        source = path if isinstance(path, RangeReader) else str(path)
        # the title of an old AVI is in whatever encoding its writer had
        with codec_at_work():
            container = av.open(
                source, mode="r", options=dict(_OPEN_OPTIONS), metadata_errors="replace"
            )
    except (av.FFmpegError, OSError) as error:
        raise reading_error("opened", error) from error
    try:
        stream = _usable_stream(container)
    except VideoError:
        container.close()
        raise
    # one thread per task: tasks run in parallel, and more threads cost more CPU per frame
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container


def _usable_stream(container: InputContainer) -> VideoStream:
    """Return the stream that a player shows.

    Raises:
        VideoError: There is none, or it is not one that this program decodes.
    """
    if not container.streams.video:
        raise VideoError("the file holds no video stream")
    stream = video_stream(container)
    codec = stream.codec_context
    if codec is None:  # PyAV's hint forgets it
        raise VideoError("the codec of its video stream is unknown")
    if codec.name not in DECODERS:
        raise VideoError(f"its codec {codec.name} is not one of surgical video")
    if codec.width * codec.height > MAX_PIXELS:
        raise VideoError(f"pictures of {codec.width} x {codec.height} pixels are too large")
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # for pictures larger than the header says
    return stream


def video_stream(container: InputContainer) -> VideoStream:
    """Return the stream that a player shows: the first that is marked as default, else the first.

    A cover picture counts only if there is nothing else.
    """
    videos = container.streams.video
    shown = [s for s in videos if not s.disposition & Disposition.attached_pic] or list(videos)
    return next((s for s in shown if s.disposition & Disposition.default), shown[0])


def jump_to_key(container: InputContainer, index: VideoIndex, key: int | None) -> Packets | None:
    """Return the packets from a key frame on.

    Args:
        container: An open video.
        index: Its index.
        key: Index in ``key_pts``; None for the container's position.

    Returns:
        None if the container passes the key frame: its own list of key frames may be wrong.
    """
    if key is None:
        return read_packets(container)
    try:
        # by presentation time: asked for its decoding time, mp4 goes one key frame too far back
        container.seek(int(index.key_pts[key]), stream=video_stream(container))
    except (av.FFmpegError, OSError) as error:
        logger.info("seeking failed: %s", error)
        return None
    packets = read_packets(container)
    first = next(packets, None)
    if first is None or first.pts is None or first.pts > index.key_pts[key]:
        return None
    return itertools.chain([first], packets)


def read_packets(container: InputContainer) -> Packets:
    """Yield the packets of the stream; the last one is empty.

    Raises:
        VideoError: Storage fails.
    """
    packets = iter(container.demux(video_stream(container)))
    with codec_at_work():
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise reading_error("read", error) from error
            if packet is None:
                return
            note_progress()
            yield packet


def lies_in_content(error: VideoError, video: str | Path) -> bool:
    """Return True if the codec reports an I/O error though each byte of a local file can be read.

    The reader of Matroska does so for a damaged head.
    """
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno != errno.EIO or is_remote(video):
        return False
    try:
        with codec_at_work(), Path(video).open("rb") as file:
            while file.read(COPY_BYTES):
                note_progress()
    except OSError:
        return False
    return True


def reading_error(what: str, error: av.FFmpegError | OSError) -> VideoError:
    """Return the ``VideoError`` for an error of the codec; ``what``: opened or read."""
    # FFmpeg reports errors of the content as ValueErrors, those of the system as OSErrors
    return VideoError(
        f"cannot be {what} ({error.strerror or error})",
        kind="missing" if isinstance(error, FileNotFoundError) else "unreadable",
        is_permanent=not isinstance(error, OSError),
    )
