"""Decoded frames → pictures that can be summed."""

from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.planes import Picture, RgbPicture, Yuv420Picture, yuv_factors


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
