"""Video file → frames with their times. The only module that imports a codec."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

# A playlist format would let a "video" read other files of the machine.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
}


class VideoError(Exception):
    """A video, or a part of it, cannot be read; ``str(error)`` is the reason in one line.

    ``is_lasting`` tells what the file holds from what may be otherwise the next time: no
    permission, too many open files, storage that does not answer.
    """

    def __init__(self, reason: str, *, is_lasting: bool = True) -> None:
        super().__init__(reason)
        self.is_lasting = is_lasting


# Decoders that answer a packet before the next one; dav1d, for one, works on several at a time.
_SKIPS_PACKET_BY_PACKET = frozenset({"h264", "hevc"})


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What a video file holds, found without decoding it.

    ``times_s``: float64 (N,), ascending presentation times of all frames, the first one at 0;
    ``pts``: int64 (N,), the same in the stream's own unit.
    """

    times_s: NDArray[np.float64]
    pts: NDArray[np.int64]

    def frames_between(self, start_s: float, end_s: float) -> range:
        """Indices of the frames shown first in ``[start_s, end_s)``."""
        # annotations are rounded to the millisecond or so, times are not
        bounds = np.searchsorted(self.times_s, [start_s - 1e-6, end_s - 1e-6])
        return range(int(bounds[0]), int(bounds[1]))


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: its index in presentation order and RGB pixels.

    ``pixels`` is uint8 (H, W, 3) as stored in the file; ``quarter_turns`` (anticlockwise) make it
    upright. Turning is left to the caller, who may do it once for many frames.
    """

    index: int
    pixels: NDArray[np.uint8]
    quarter_turns: int


def read_video_index(path: str | Path) -> VideoIndex:
    """List the frames of a video by reading its packets (headers lie about frame counts).

    Raises:
        VideoError: The file is missing, is no video, or holds no frame.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        try:
            pts = _packet_times(container, stream)
            if pts is None:
                # e.g. AVI, whose packets carry no presentation time: only decoding tells
                container.seek(0)
                pts = [frame.pts for frame in container.decode(stream) if frame.pts is not None]
        except av.FFmpegError as error:
            raise _reading_error("read", error) from error
        if not pts or stream.time_base is None:
            raise VideoError("the file holds no video frame")
        ordered = np.unique(np.asarray(pts, dtype=np.int64))
        return VideoIndex((ordered - ordered[0]) * float(stream.time_base), ordered)


def decode_frames(
    path: str | Path, index: VideoIndex, wanted: NDArray[np.int64]
) -> Iterator[Frame]:
    """Decode chosen frames in one pass, in presentation order.

    Of the frames between the wanted ones only those are decoded that other frames refer to, and
    none is converted. After a damaged packet nothing is trusted up to the next key frame: those
    frames do not come.

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
    wanted_pts = {int(index.pts[i]): int(i) for i in wanted}
    last_pts = int(index.pts[wanted[-1]])
    with _open(path) as container:
        for pts, frame in _decode_sound(container, container.streams.video[0], wanted_pts):
            if pts in wanted_pts:
                pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
                yield Frame(wanted_pts[pts], pixels, round(frame.rotation / 90) % 4)
            if pts >= last_pts:
                return


def _decode_sound(
    container: InputContainer, stream: VideoStream, wanted_pts: Collection[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Times and frames in presentation order, without what damage may have reached."""
    can_skip = stream.codec_context.name in _SKIPS_PACKET_BY_PACKET
    damaged = False
    for packet in _packets(container, stream):
        if can_skip:
            # a sixth to a quarter of the decoding is spared; the wanted frames are the same
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


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[av.Packet[Any]]":
    """The packets of the stream; what storage does wrong meanwhile becomes a ``VideoError``."""
    packets = iter(container.demux(stream))
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            raise _reading_error("read", error) from error
        if packet is None:
            return
        yield packet


def _reading_error(what: str, error: av.FFmpegError | OSError) -> VideoError:
    # FFmpeg's own errors about content are ValueErrors, those of the system are OSErrors
    reason = error.strerror or str(error)
    return VideoError(f"cannot be {what} ({reason})", is_lasting=not isinstance(error, OSError))


def _open(path: str | Path) -> InputContainer:
    try:
        container = av.open(str(path), mode="r", options=dict(_OPEN_OPTIONS))
    except (av.FFmpegError, OSError) as error:
        raise _reading_error("opened", error) from error
    if not container.streams.video:
        container.close()
        raise VideoError("the file holds no video stream")
    stream = container.streams.video[0]
    # one thread a task: the tasks run in parallel, and more threads cost more CPU a frame
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container


def _packet_times(container: InputContainer, stream: VideoStream) -> list[int] | None:
    """Presentation times of the packets that are shown; None when packets do not carry them."""
    pts = []
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None:
            return None
        pts.append(packet.pts)
    return pts
