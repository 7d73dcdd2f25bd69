"""Video file → its index and its frames with their times."""

import itertools
import logging
from array import array
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ophnet_ray.data.video.container import (
    Packets,
    VideoError,
    VideoSource,
    jump_to_key,
    open_container,
    read_packets,
    reading_error,
    video_stream,
)
from ophnet_ray.data.video.index import DecodeSpan, VideoIndex, plan_spans
from ophnet_ray.data.video.pictures import PictureReader
from ophnet_ray.data.video.planes import Picture

logger = logging.getLogger(__name__)

# Decoders that return a packet's frames before they take the next packet; dav1d does not.
_SKIPS_PACKET_BY_PACKET = frozenset({"h264", "hevc"})

_LEADS = (0, 1, None)
"""Whole groups of pictures that are decoded before the wanted frames, one attempt after the other.

After a jump, some streams give no frame until all of the picture was refreshed (H.264 with periodic
intra refresh). None: the attempt begins at the start of the file and never jumps.
"""


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


def read_video_index(path: VideoSource) -> VideoIndex:
    """List the frames of a video by reading its packets (headers lie about frame counts).

    Raises:
        VideoError: The file is missing, is no video, or holds no frame.
    """
    with open_container(path) as container:
        stream = video_stream(container)
        try:
            packets = _read_packet_times(container, stream)
            # AVI holds no presentation times; FFmpeg guesses them
            if packets is None or (container.format.name == "avi" and _reorders_frames(stream)):
                index = _index_by_decoding(container, stream, packets)
            else:
                index = _build_index(stream, *packets)
        except av.FFmpegError as error:
            raise reading_error("read", error) from error
    if len(index.key_pts) and packets and packets[0][0] == packets[1][0] > index.pts[0]:
        return _drop_lost_start(path, index, packets[0][0])
    return index


def _reorders_frames(stream: VideoStream) -> bool:
    return bool(stream.codec_context.has_b_frames)


def _build_index(
    stream: VideoStream,
    pts: "array[int]",
    key_pts: "array[int] | tuple[()]" = (),
    *,
    is_counted: bool = False,
) -> VideoIndex:
    if not pts or stream.time_base is None:
        raise VideoError("the file holds no video frame")
    ordered = np.asarray(pts, dtype=np.int64)
    ordered = np.sort(ordered) if is_counted else np.unique(ordered)
    times_s = (ordered - ordered[0]) * float(stream.time_base)
    keys = np.unique(np.asarray(key_pts, dtype=np.int64))
    return VideoIndex(times_s, ordered, keys, is_counted)


def _index_by_decoding(
    container: InputContainer,
    stream: VideoStream,
    packets: "tuple[array[int], array[int]] | None",
) -> VideoIndex:
    """List the frames of an AVI file as they are decoded.

    Where the times do not ascend, they belong to other frames: the order alone is right.
    """
    container.seek(0)
    pts = array("q")
    for packet in read_packets(container):
        with suppress(av.FFmpegError):
            pts.extend(frame.pts for frame in packet.decode() if frame.pts is not None)
    if any(later <= time for time, later in itertools.pairwise(pts)):
        return _build_index(stream, pts, is_counted=True)
    if packets is not None and pts == array("q", sorted(packets[0])):
        return _build_index(stream, *packets)
    return _build_index(stream, pts)


def _drop_lost_start(path: VideoSource, index: VideoIndex, first_pts: int) -> VideoIndex:
    """Drop the frames shown before the first key frame that a decoder cannot give.

    A file that was cut at an open group of pictures holds such frames: they refer to the group
    before.

    Args:
        path: Video file.
        index: Its index.
        first_pts: Time of its first packet, a key frame.
    """
    leading = {int(pts) for pts in index.pts[index.pts < first_pts]}
    with open_container(path) as container:
        decoded = _decode_undamaged(container, read_packets(container), index, leading)
        came = {pts for pts, _ in itertools.takewhile(lambda one: one[0] < first_pts, decoded)}
    pts = index.pts[[int(pts) not in leading - came for pts in index.pts]]
    times_s = index.times_s[np.searchsorted(index.pts, pts)]
    return VideoIndex(times_s - times_s[0], pts, index.key_pts)


def decode_frames(
    path: VideoSource, index: VideoIndex, wanted: NDArray[np.int64]
) -> Iterator[Frame]:
    """Decode chosen frames in one pass, in presentation order.

    The pass jumps to a key frame between two wanted frames if that saves time (see
    ``MIN_JUMP_FRAMES``). Other frames are decoded only if wanted frames may refer to them, and
    never converted. The frames from a damaged packet up to the next key frame are left out; those
    that do not come after a jump only if they do not come without it, either.

    Args:
        path: Video file.
        index: Its index.
        wanted: Ascending frame indices.

    Yields:
        The wanted frames that could be decoded.

    Raises:
        VideoError: The file cannot be opened, or storage fails in the middle.
    """
    pictures = PictureReader()
    for lead in _LEADS:
        if len(wanted):
            wanted = yield from _decode_pass(path, index, wanted, lead, pictures)


def _decode_pass(
    path: VideoSource,
    index: VideoIndex,
    wanted: NDArray[np.int64],
    lead: int | None,
    pictures: PictureReader,
) -> Generator[Frame, None, NDArray[np.int64]]:
    """Decode wanted frames up to the first one that a jump may have cost.

    Returns:
        That one and the wanted frames after it; none if no jump cost a frame.
    """
    spans = [DecodeSpan(None, wanted)] if lead is None else plan_spans(index, wanted, lead)
    with open_container(path) as container:
        for span in spans:
            packets = jump_to_key(container, index, span.key)
            if packets is None:
                logger.warning("%s: cannot jump to a key frame; it is decoded throughout", path)
                return wanted
            num_came = 0
            for frame in _decode_span(container, packets, index, span.wanted, pictures):
                if span.key is not None and frame.index != span.wanted[num_came]:
                    break
                num_came += 1
                yield frame
            if span.key is not None and num_came < len(span.wanted):
                logger.info("%s: frame %d not after a jump", path, span.wanted[num_came])
                return wanted[num_came:]
            wanted = wanted[len(span.wanted) :]
    return wanted


def _decode_span(
    container: InputContainer,
    packets: Packets,
    index: VideoIndex,
    wanted: NDArray[np.int64],
    pictures: PictureReader,
) -> Iterator[Frame]:
    wanted_pts = {int(index.pts[i]): int(i) for i in wanted}
    last_pts = int(index.pts[wanted[-1]])
    for pts, frame in _decode_undamaged(container, packets, index, wanted_pts):
        if pts in wanted_pts:
            yield Frame(wanted_pts[pts], pictures.read(frame), round(frame.rotation / 90) % 4)
        if pts >= last_pts:
            return


def _decode_undamaged(
    container: InputContainer, packets: Packets, index: VideoIndex, wanted_pts: Collection[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (pts, frame) in order, without the frames from damage up to the next key frame."""
    codec = video_stream(container).codec_context
    can_skip = codec.name in _SKIPS_PACKET_BY_PACKET and not index.is_counted
    counted = iter(index.pts.tolist() if index.is_counted else ())
    damaged = False
    for packet in packets:
        if can_skip:
            # saves a sixth to a quarter of the decoding; the wanted frames are the same
            is_wanted = packet.pts is None or packet.pts in wanted_pts
            codec.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged = True
            continue
        for frame in frames:
            damaged = bool(frame.is_corrupt or (damaged and not frame.key_frame))
            pts = frame.pts
            if index.is_counted and pts is not None:
                pts = next(counted, None)
            if pts is not None and not damaged:
                yield pts, frame


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
