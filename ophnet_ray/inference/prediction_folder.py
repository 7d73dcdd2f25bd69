"""The folder of a prediction: finished videos, and what is made of them once all are done."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import VIDEO_SUFFIXES
from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_predictions,
    write_predictions,
)
from ophnet_ray.inference.smoothing import Smooth, smooth_labels
from ophnet_ray.metrics.timelines import cut_segments, format_segments
from ophnet_ray.models.dynamics import PhaseDynamics
from ophnet_ray.storage.files import ensure_writable, list_names, stat_files, write_atomically
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import absolute, check_location, is_remote, join, stem_of


@dataclass(frozen=True, slots=True)
class PredictionFolder:
    """Names of what lies in ``--output``."""

    path: Path

    @property
    def parts(self) -> Path:
        """A file for each finished video, for going on after a kill."""
        return self.path / "parts"

    @property
    def predictions(self) -> Path:
        """A row a frame time of all videos."""
        return self.path / "predictions.parquet"

    @property
    def segments(self) -> Path:
        """Phases as intervals: an annotation CSV."""
        return self.path / "segments.csv"

    @property
    def submission(self) -> Path:
        """The filled template."""
        return self.path / "submission.csv"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out; the lock goes with the process.

        Raises:
            UserError: It cannot be written, or another process is at work there.
        """
        busy = f"another process predicts into {self.path}; wait for it, or choose another --output"
        with ExitStack() as held:
            try:
                ensure_writable(self.parts)
                held.enter_context(exclusive(self.path / ".lock", busy=busy))
            except OSError as error:
                raise UserError(
                    f"--output {self.path} cannot be written: {error.strerror}"
                ) from error
            for leftover in (*self.path.glob(".new.*"), *self.parts.glob(".new.*")):
                leftover.unlink(missing_ok=True)
            yield


def find_videos(given: Sequence[str]) -> dict[str, str]:
    """The videos of folders and files, in buckets or not, by id: file names without the suffix.

    Raises:
        UserError: A path is not there, or there is no video.
    """
    paths: list[str] = []
    for name in given:
        check_location("--videos", name)
        path = absolute(name)
        if stat_files([path]):
            paths.append(path)
        elif is_remote(path) or Path(path).is_dir():
            inside = [n for n in list_names(path) if n.lower().endswith(VIDEO_SUFFIXES)]
            paths += stat_files([join(path, n) for n in sorted(inside)])
        else:
            raise UserError(f"--videos {name} does not exist")
    if not paths:
        raise UserError(f"--videos: no {', '.join(VIDEO_SUFFIXES)} file in {', '.join(given)}")
    return name_videos(paths)


def name_videos(videos: Sequence[str]) -> dict[str, str]:
    """Give each video its file's name without the suffix, or its path where two share that."""
    stems: dict[str, list[str]] = {}
    for video in dict.fromkeys(videos):
        stems.setdefault(stem_of(video), []).append(video)
    return {
        stem if len(same) == 1 else video: video for stem, same in stems.items() for video in same
    }


def join_parts(
    parts: Mapping[str, Path],
    folder: PredictionFolder,
    info: PredictionInfo,
    smooth: Smooth,
    dynamics: PhaseDynamics | None,
) -> int:
    """Decode over time and write ``predictions.parquet`` and ``segments.csv``.

    One video at a time is in memory.

    Returns:
        Rows.

    Raises:
        UserError: Smoothing needs what the checkpoint does not have.
    """
    timelines = []

    def decoded() -> Iterator[tuple[VideoPrediction, NDArray[np.int64]]]:
        for part in parts.values():
            for prediction, _ in read_predictions(part):
                labels = decode_labels(prediction, info, smooth, dynamics)
                segments = cut_segments(prediction.times_s, labels, info.frame_rate)
                timelines.append((prediction.video_id, segments))
                yield prediction, labels

    num_rows = write_predictions(folder.predictions, decoded(), replace(info, smooth=smooth))
    write_atomically(folder.segments, format_segments(timelines, info.phases).encode())
    return num_rows


def decode_labels(
    prediction: VideoPrediction,
    info: PredictionInfo,
    smooth: Smooth,
    dynamics: PhaseDynamics | None,
) -> NDArray[np.int64]:
    """The final labels of a video.

    Raises:
        UserError: Smoothing needs what the checkpoint does not have.
    """
    if smooth == "none":
        return prediction.labels
    if dynamics is None:
        raise UserError(
            f"--smooth {smooth}: this checkpoint was trained on trimmed clips, which do not tell "
            "how phases follow each other; use --smooth none"
        )
    return smooth_labels(
        prediction.probabilities, smooth, dynamics, info.frame_rate, causal=info.causal
    )
