"""The built-in demo data set: synthetic eye-surgery videos, drawn here, and their CSV.

Twenty-four cases; ``demo_world`` has their phases. They differ in the instruments and in what these
do to the eye, not in colour: each case has its own eye, light, camera, tempo and frame rate. Phases
recur and are imbalanced, as in a real cataract operation. The same code draws the same frames.
"""

import csv
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.demo_eye import HEIGHT, WIDTH, Eye, Image, draw_scene
from ophnet_ray.data.demo_world import SHORT, DemoWorld
from ophnet_ray.storage.unfinished import is_abandoned, unfinished_name

DEMO_CSV = "demo.csv"

Row = tuple[str, float, float, int]
"""Row of the CSV: video_id, start and end in seconds, phase_id."""


def demo_csv(folder: Path, world: DemoWorld = SHORT) -> Path:
    """Return the path of the demo's CSV in a folder; it exists once the demo is complete."""
    return folder / world.folder / DEMO_CSV


def make_demo(
    folder: Path, on_progress: Callable[[int], None] | None = None, world: DemoWorld = SHORT
) -> Path:
    """Draw the videos and write the CSV, unless they exist.

    Args:
        folder: Where the demo's own folder is made.
        on_progress: Called after each case with the number of cases drawn.
        world: The kind of operations.

    Returns:
        The CSV, in OphNet's columns, beside its videos.
    """
    csv_path = demo_csv(folder, world)
    target = csv_path.parent
    if csv_path.exists():
        return csv_path
    for leftover in folder.glob(f".{target.name}.*"):
        with suppress(FileNotFoundError):  # another process deletes it, or gives it its name
            if is_abandoned(leftover.name, leftover.stat().st_mtime):
                shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / unfinished_name(f".{target.name}.")
    temporary.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(lambda number: draw_case(temporary, number, world), range(world.num_cases))
        for num_cases, case_rows in enumerate(drawn, start=1):
            rows += case_rows
            if on_progress:
                on_progress(num_cases)
    with (temporary / csv_path.name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "start", "end", "phase_id"])
        writer.writerows(rows)
    try:
        temporary.rename(target)
    except OSError:
        # another process was first; it drew the same
        if not csv_path.exists():
            raise
        shutil.rmtree(temporary)
    return csv_path


def draw_case(folder: Path, number: int, world: DemoWorld = SHORT) -> list[Row]:
    """Draw and encode one operation; return its rows."""
    case = plan_case(number, world)
    frames = _draw_frames(
        case.eye, [world.looks[p] for p in case.labels], case.frame_rate, case.rng
    )
    _encode(folder / f"{case.video_id}.mp4", frames, case.frame_rate)
    return case.rows


@dataclass(frozen=True, slots=True)
class CasePlan:
    """An operation before it is drawn: eye, rows, phase of each frame, and the state of chance."""

    video_id: str
    eye: Eye
    frame_rate: int
    rows: list[Row]
    labels: list[int]
    rng: np.random.RandomState


def plan_case(number: int, world: DemoWorld = SHORT) -> CasePlan:
    """Choose eye, tempo and course of one operation."""
    rng = np.random.RandomState(1000 + number)
    eye = Eye.choose(rng)
    frame_rate = world.frame_rates[number % len(world.frame_rates)]
    tempo = rng.uniform(0.75, 1.35)
    video_id = f"demo_{number:04d}"
    rows: list[Row] = []
    labels: list[int] = []
    for phase, seconds in world.choose_course(rng):
        num_frames = round(seconds * tempo * rng.uniform(0.8, 1.2) * frame_rate)
        start = len(labels)
        labels += [phase] * num_frames
        rows.append(
            (video_id, round(start / frame_rate, 3), round(len(labels) / frame_rate, 3), phase)
        )
    return CasePlan(video_id, eye, frame_rate, rows, labels, rng)


def _draw_frames(
    eye: Eye, looks: list[int], frame_rate: int, rng: np.random.RandomState
) -> Iterator[Image]:
    noise = rng.normal(0, 4, (4, HEIGHT, WIDTH, 3)).astype(np.float32)
    shake = _wander(rng, len(looks), frame_rate, 6.0)
    hand = _wander(rng, len(looks), frame_rate, 1.0)
    gain = 1 + 0.18 * _wander(rng, len(looks), frame_rate, 1.0)[:, 0]
    glint = rng.uniform(0, 2 * np.pi)
    for i, look in enumerate(looks):
        image = draw_scene(eye, look, hand[i], glint, i / frame_rate)
        center = (image.shape[1] / 2, image.shape[0] / 2)
        dx, dy = shake[i]
        moved = cv2.getRectSubPix(image, (WIDTH, HEIGHT), (center[0] + dx, center[1] + dy))
        lit = moved * gain[i] * np.asarray(eye.light) + noise[i % len(noise)]
        yield np.clip(lit, 0, 255).astype(np.uint8)


def _wander(
    rng: np.random.RandomState, num_frames: int, frame_rate: int, size: float
) -> NDArray[np.float64]:
    """Return a slow random movement, (T, 2), mostly within ±size."""
    knots = rng.uniform(-size, size, (num_frames // (2 * frame_rate) + 3, 2))
    at = np.arange(num_frames) / (2 * frame_rate)
    left = at.astype(int)
    blend = (1 - np.cos(np.pi * (at - left)))[:, None] / 2
    return np.asarray(knots[left] * (1 - blend) + knots[left + 1] * blend)


def _encode(path: Path, frames: Iterator[Image], frame_rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "preset": "veryfast",
            "crf": "26",
            "g": str(4 * frame_rate),
            # x264's macroblock tree gives other bytes each time (seen in build 165)
            "x264-params": "mbtree=0",
        }
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
