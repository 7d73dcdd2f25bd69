"""Signs that the end of a video file is missing."""

from typing import BinaryIO

from ophnet_ray.data.video.container import VideoSource
from ophnet_ray.storage.range_reader import RangeReader

HEADER_BYTES = 16
MIN_LOST_S = 1.0
"""Headers round durations, and count the time for which the last frame is shown."""
MIN_LOST_SHARE = 0.02


def is_cut_mp4(source: VideoSource, size_bytes: int) -> bool:
    """Return True if an MP4 or MOV file ends before the last of its boxes does.

    Args:
        source: A file, or an open object of a bucket.
        size_bytes: Its size.
    """
    if isinstance(source, RangeReader):
        return _ends_inside_a_box(source, size_bytes)
    with open(source, "rb") as file:  # noqa: PTH123 - a path or a text
        return _ends_inside_a_box(file, size_bytes)


def _ends_inside_a_box(file: "BinaryIO | RangeReader", size_bytes: int) -> bool:
    position, num_boxes = 0, 0
    while position < size_bytes:
        file.seek(position)
        header = bytes(file.read(HEADER_BYTES))
        length = int.from_bytes(header[:4], "big")
        if not num_boxes and header[4:8] != b"ftyp":
            return False
        if length == 1 and len(header) == HEADER_BYTES:
            length = int.from_bytes(header[8:], "big")
        if length == 0:  # up to the end of the file
            return False
        if length < 8 or not header[4:8].isalnum():
            return False
        position, num_boxes = position + length, num_boxes + 1
    return position > size_bytes


def lost_seconds(promised_s: float | None, found_s: float) -> float | None:
    """Return by how much a video is shorter than its header says; None: by no more than usual."""
    if promised_s is None:
        return None
    lost_s = promised_s - found_s
    return lost_s if lost_s > max(MIN_LOST_S, MIN_LOST_SHARE * promised_s) else None
