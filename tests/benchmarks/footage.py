"""Videos of the benchmarks: drawn eye surgery at full size, encoded once and kept."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.demo_eye import Eye, draw_scene
from ophnet_ray.data.segments import Segment

FRAME_RATE = 25
NUM_CLIPS, CLIP_FRAMES = 12, 72
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
BIT_RATES = {"720p": 2_600_000, "1080p": 4_000_000}


@dataclass(frozen=True)
class Footage:
    """A video of the benchmarks."""

    name: str
    path: Path
    num_frames: int


def find_ffmpeg() -> str:
    """Return the path of the program ffmpeg, the reference for decoding."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise SystemExit(
            "error: the benchmarks need the program ffmpeg; install the package ffmpeg"
        )
    return program


def draw_video(path: Path, size: str, gop: int, num_frames: int, seed: int = 0) -> Path:
    """Encode drawn surgery with sensor noise at a recorder's bit rate, unless the file exists."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.mp4")
        width, height = SIZES[size]
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(FRAME_RATE))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.bit_rate = BIT_RATES[size]
            stream.options = {"preset": "veryfast", "g": str(gop)}
            for image in _draw_frames(width, height, num_frames, seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        temporary.rename(path)
    return path


def draw_clips(folder: Path, size: str) -> list[Path]:
    """Draw trimmed clips, one per case, as in the seed's tables."""
    return [
        draw_video(folder / f"clips_{size}" / f"{i:02d}.mp4", size, 50, CLIP_FRAMES, seed=i)
        for i in range(NUM_CLIPS)
    ]


def repeat_video(path: Path, source: Path, times: int) -> Path:
    """Repeat the packets of a video: a long video without encoding, unless the file exists."""
    if not path.exists():
        temporary = path.with_suffix(".tmp.mp4")
        loop = ["-stream_loop", str(times - 1), "-i", str(source), "-an", "-c", "copy"]
        subprocess.run([find_ffmpeg(), "-v", "error", "-y", *loop, str(temporary)], check=True)
        temporary.rename(path)
    return path


def real_clips(folder: Path) -> list[Footage]:
    """Return real 720p and 1080p surgery, repeated; empty without ``../shared/data``."""
    clips = []
    for name, relative, times, num_frames in (
        ("real 720p", "endoscopy/endo.mp4", 6, 250),
        ("real 1080p", "eye_surgery/seqA_1080p.mp4", 6, 200),
    ):
        if (SHARED_DATA / relative).is_file():
            path = repeat_video(
                folder / f"{name.replace(' ', '_')}.mp4", SHARED_DATA / relative, times
            )
            clips.append(Footage(name, path, times * num_frames))
    return clips


def dense_segments(footage: Footage) -> list[Segment]:
    """Cut adjacent segments of 64 frames: with ``coverage="head"`` every frame is used."""
    return [
        _segment(footage.path, first / FRAME_RATE, (first + 64) / FRAME_RATE)
        for first in range(0, footage.num_frames - 63, 64)
    ]


def typical_segments(footage: Footage) -> list[Segment]:
    """Cut adjacent segments as long as OphNet's: median 11 s, mean 22 s (log-normal)."""
    rng = np.random.default_rng(0)
    segments, start_s, end_s = [], 0.0, footage.num_frames / FRAME_RATE
    while start_s < end_s:
        length_s = float(np.clip(rng.lognormal(np.log(11), np.sqrt(2 * np.log(2))), 1, 120))
        segments.append(_segment(footage.path, start_s, min(start_s + length_s, end_s)))
        start_s += length_s
    return segments


def _segment(video: Path, start_s: float, end_s: float) -> Segment:
    name = f"{video.stem}:{start_s:.3f}"
    return Segment(name, video.stem, str(video), start_s, end_s, "a", "train")


def _draw_frames(
    width: int, height: int, num_frames: int, seed: int
) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.RandomState(seed)
    eye = Eye.choose(rng)
    noise = rng.normal(0, 3, (4, height, width, 1)).astype(np.int16)
    for i in range(num_frames):
        angle = 2 * np.pi * i / 90
        hand = np.asarray([np.cos(angle), np.sin(angle)]) * 0.6
        scene = draw_scene(eye, i // 50 % 6, hand, 1.0, i / FRAME_RATE)
        large = cv2.resize(scene, (width, height), interpolation=cv2.INTER_CUBIC)
        yield np.clip(large + noise[i % 4], 0, 255).astype(np.uint8)
