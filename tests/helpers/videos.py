"""Tiny real video files and data sets of them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, frames, frame_rate=10, codec="libx264", gop=12, times=None, **options):
    """Encode RGB frames (uint8 (H, W, 3)) so that flat colours survive within 2 levels.

    ``times``: time of each frame in units of ``1 / frame_rate``, for a varying rate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate))
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "8", "g": str(gop), **options}
        for i, frame in enumerate(frames):
            if i == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[i], 1 / Fraction(frame_rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_variant(source: Path, target: Path, number: int) -> Path:
    """Write an MP4 with the frames of another one and other content: a box that players skip."""
    box = number.to_bytes(4, "big")
    target.write_bytes(source.read_bytes() + (8 + len(box)).to_bytes(4, "big") + b"free" + box)
    return target


def write_damaged_video(path: Path) -> Path:
    """Write ten seconds of noise at 10 frames/s; some frames in the middle cannot be decoded."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
    video = write_video(path, frames, frame_rate=10, gop=10)
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = rng.bytes(4000)
    video.write_bytes(content)
    return video


def grey_frames(num_frames: int, size: int = 32):
    """Yield frames; frame k is a flat grey 2k, so that a frame names its own index."""
    return (np.full((size, size, 3), 2 * k, dtype=np.uint8) for k in range(num_frames))


COLORS = {"red": (200, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 190)}


def write_color_dataset(folder: Path, num_cases: int = 6, columns: str = "segments") -> Path:
    """Write videos of 3 s each of red, green and blue, which any model learns; return the CSV.

    Args:
        folder: Receives ``segments.csv`` and the videos.
        num_cases: Videos, one per case; the order of the colours rotates.
        columns: "segments" of whole videos, or "clips", one file per phase.
    """
    rows = []
    for case in range(num_cases):
        order = list(COLORS)[case % 3 :] + list(COLORS)[: case % 3]
        rng = np.random.default_rng(case)
        frames = []
        for i, name in enumerate(order):
            noise = rng.integers(-12, 12, (30, 64, 64, 3))
            flat = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
            frames += list(flat)
            if columns == "clips":
                clip = f"case{case}-{name}-{i}-{i + 1}.mp4"
                write_video(folder / clip, flat)
                rows.append(f"{clip},{name}")
            else:
                rows.append(f"v{case},{3 * i},{3 * i + 3},{name}")
        if columns == "segments":
            write_video(folder / f"v{case}.mp4", frames)
    header = "video_path,phase" if columns == "clips" else "video_id,start,end,phase"
    path = folder / "segments.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
