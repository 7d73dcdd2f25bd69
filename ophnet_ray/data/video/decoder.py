"""Video file → frames with their times. The only module that imports a codec."""

import itertools
import logging
from array import array
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ophnet_ray.data.annotations import RejectKind
from ophnet_ray.data.video.index import VideoIndex, plan_spans
from ophnet_ray.data.video.planes import Picture, RgbPicture, Yuv420Picture, yuv_factors
from ophnet_ray.storage.range_reader import RangeReader, open_source

logger = logging.getLogger(__name__)

Packets = Iterator["av.Packet[Any]"]
VideoSource = str | Path | RangeReader
"""A video file, or an open object of a bucket (see ``open_video``)."""

# A playlist format would let a "video" read other files of the machine.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
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


# Decoders that return a packet's frames before they take the next packet; dav1d does not.
_SKIPS_PACKET_BY_PACKET = frozenset({"h264", "hevc"})


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: its index in presentation order and its picture, as stored in the file.

    ``quarter_turns`` (anticlockwise) make it upright; the caller turns it, once for many frames.
    The picture may be the decoder's own memory, which lives as long as the frame.
    """

    index: int
    picture: Picture
    quarter_turns: int

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Pixels in RGB, uint8 (H, W, 3)."""
        return self.picture.to_rgb()


@contextmanager
def open_video(path: str | Path) -> Iterator[VideoSource]:
    """Open a video once for several passes over it; a local file stays a path.

    Raises:
        VideoError: The bucket does not return it.
    """
    with ExitStack() as opened:
        try:
            source = opened.enter_context(open_source(path))
        except OSError as error:
            raise VideoError(f"cannot be opened ({error})", is_permanent=False) from error
        yield source


def read_video_index(path: VideoSource) -> VideoIndex:
    """List the frames of a video by reading its packets (headers lie about frame counts).

    Raises:
        VideoError: The file is missing, is no video, or holds no frame.
    """
    with open_container(path) as container:
        stream = container.streams.video[0]
        try:
            packets = _read_packet_times(container, stream)
            if packets is None:
                # e.g. AVI, whose packets carry no presentation time: it takes decoding
                container.seek(0)
                decoded = (frame.pts for frame in container.decode(stream))
                pts = array("q", (time for time in decoded if time is not None))
                keys = array("q")
            else:
                pts, keys = packets
        except av.FFmpegError as error:
            raise _reading_error("read", error) from error
        if not pts or stream.time_base is None:
            raise VideoError("the file holds no video frame")
        ordered = np.unique(np.asarray(pts, dtype=np.int64))
        times_s = (ordered - ordered[0]) * float(stream.time_base)
        return VideoIndex(times_s, ordered, np.unique(np.asarray(keys, dtype=np.int64)))


def decode_frames(
    path: VideoSource, index: VideoIndex, wanted: NDArray[np.int64]
) -> Iterator[Frame]:
    """Decode chosen frames in one pass, in presentation order.

    The pass jumps to a key frame between two wanted frames if that saves time (see
    ``MIN_JUMP_FRAMES``). Other frames are decoded only if wanted frames may refer to them, and
    never converted. The frames from a damaged packet up to the next key frame are left out.

    Args:
        path: Video file.
        index: Its index.
        wanted: Ascending frame indices.

    Yields:
        The wanted frames that could be decoded.

    Raises:
        VideoError: The file cannot be opened, or storage fails in the middle.
    """
    if not len(wanted):
        return
    spans = plan_spans(index, wanted)
    pictures = PictureReader()
    with open_container(path) as container:
        for i, span in enumerate(spans):
            packets = jump_to_key(container, index, span.key)
            if packets is None:
                logger.warning("%s: cannot jump to a key frame; it is decoded throughout", path)
                remaining = np.concatenate([span.wanted for span in spans[i:]])
                break
            yield from _decode_span(container, packets, index, span.wanted, pictures)
        else:
            return
    with open_container(path) as container:
        yield from _decode_span(container, _packets(container), index, remaining, pictures)


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
        return _packets(container)
    try:
        # by presentation time: asked for its decoding time, mp4 goes one key frame too far back
        container.seek(int(index.key_pts[key]), stream=container.streams.video[0])
    except (av.FFmpegError, OSError) as error:
        logger.info("seeking failed: %s", error)
        return None
    packets = _packets(container)
    first = next(packets, None)
    if first is None or first.pts is None or first.pts > index.key_pts[key]:
        return None
    return itertools.chain([first], packets)


def _packets(container: InputContainer) -> Packets:
    """Yield the packets of the stream; a failure of storage becomes a ``VideoError``."""
    packets = iter(container.demux(container.streams.video[0]))
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            raise _reading_error("read", error) from error
        if packet is None:
            return
        yield packet


def _decode_span(
    container: InputContainer,
    packets: Packets,
    index: VideoIndex,
    wanted: NDArray[np.int64],
    pictures: "PictureReader",
) -> Iterator[Frame]:
    wanted_pts = {int(index.pts[i]): int(i) for i in wanted}
    last_pts = int(index.pts[wanted[-1]])
    for pts, frame in _decode_undamaged(container.streams.video[0], packets, wanted_pts):
        if pts in wanted_pts:
            yield Frame(wanted_pts[pts], pictures.read(frame), round(frame.rotation / 90) % 4)
        if pts >= last_pts:
            return


class PictureReader:
    """Pictures of decoded frames: YUV planes where our conversion equals FFmpeg's, else RGB."""

    def __init__(self) -> None:
        # one for all frames: a reformatter per frame would set up its own threads
        self._reformatter = VideoReformatter()

    def read(self, frame: av.VideoFrame) -> Picture:
        """Return the picture of a frame; it may hold the frame's memory.

        Raises:
            VideoError: FFmpeg cannot convert its colours.
        """
        if _has_plain_planes(frame) and converts_as_ffmpeg(
            frame.width, frame.format.name, frame.colorspace, frame.color_range
        ):
            return _yuv_picture(frame)
        try:
            return RgbPicture(_convert(self._reformatter, frame))
        except av.FFmpegError as error:
            raise VideoError(f"cannot be converted to RGB ({error.strerror})") from error


def _has_plain_planes(frame: av.VideoFrame) -> bool:
    """Return True if the planes of the frame are those of a ``Yuv420Picture``."""
    return (
        frame.format.name in {"yuv420p", "yuvj420p"}
        and not frame.interlaced_frame
        and frame.width % 2 == frame.height % 2 == 0
        # a negative size: stored from the last row up
        and all(plane.line_size >= frame.width // 2 for plane in frame.planes)
    )


@lru_cache(maxsize=256)
def converts_as_ffmpeg(width: int, pixel_format: str, colorspace: int, color_range: int) -> bool:
    """Return True if our YUV → RGB equals FFmpeg's on random planes, on this processor.

    64 rows suffice: FFmpeg converts two rows per call, in a way that depends on the width.
    """
    noise = av.VideoFrame(width, 64, pixel_format)
    noise.colorspace, noise.color_range = colorspace, color_range
    rng = np.random.default_rng(0)
    for plane in noise.planes:
        plane.update(rng.bytes(plane.buffer_size))
    try:
        theirs = _convert(VideoReformatter(), noise)
    except av.FFmpegError:
        return False
    return np.array_equal(_yuv_picture(noise).to_rgb(), theirs)


def _convert(reformatter: VideoReformatter, frame: av.VideoFrame) -> NDArray[np.uint8]:
    converted = reformatter.reformat(frame, format="rgb24", threads=1)
    return np.asarray(converted.to_ndarray(), dtype=np.uint8)


def _yuv_picture(frame: av.VideoFrame) -> Yuv420Picture:
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        for plane in frame.planes
    )
    is_full_range = frame.color_range == ColorRange.JPEG
    factors = yuv_factors(int(frame.colorspace), is_full_range=is_full_range)
    return Yuv420Picture((y, u, v), (frame.height, frame.width), factors)


def _decode_undamaged(
    stream: VideoStream, packets: Packets, wanted_pts: Collection[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (pts, frame) in order, without the frames from damage up to the next key frame."""
    can_skip = stream.codec_context.name in _SKIPS_PACKET_BY_PACKET
    damaged = False
    for packet in packets:
        if can_skip:
            # saves a sixth to a quarter of the decoding; the wanted frames are the same
            is_wanted = packet.pts is None or packet.pts in wanted_pts
            stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged = True
            continue
        for frame in frames:
            damaged = bool(frame.is_corrupt or (damaged and not frame.key_frame))
            if frame.pts is not None and not damaged:
                yield frame.pts, frame


def _reading_error(what: str, error: av.FFmpegError | OSError) -> VideoError:
    # FFmpeg reports errors of the content as ValueErrors, those of the system as OSErrors
    return VideoError(
        f"cannot be {what} ({error.strerror or error})",
        kind="missing" if isinstance(error, FileNotFoundError) else "unreadable",
        is_permanent=not isinstance(error, OSError),
    )


def open_container(path: VideoSource) -> InputContainer:
    """Open a video for one pass on one thread.

    Raises:
        VideoError: It cannot be opened, or holds no video stream.
    """
    try:
        if isinstance(path, RangeReader):
            path.seek(0)
        source = path if isinstance(path, RangeReader) else str(path)
        container = av.open(source, mode="r", options=dict(_OPEN_OPTIONS))
    except (av.FFmpegError, OSError) as error:
        raise _reading_error("opened", error) from error
    if not container.streams.video:
        container.close()
        raise VideoError("the file holds no video stream")
    stream = container.streams.video[0]
    # one thread per task: tasks run in parallel, and more threads cost more CPU per frame
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container


def _read_packet_times(
    container: InputContainer, stream: VideoStream
) -> "tuple[array[int], array[int]] | None":
    """Read the presentation times of the packets that are shown, and of the key frames among them.

    Arrays, not lists: 8 bytes per frame of hours of video. None if the packets carry no times.
    """
    pts, keys = array("q"), array("q")
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None:
            return None
        pts.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    return pts, keys
