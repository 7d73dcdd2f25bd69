"""Flags of the data: the annotated segments, and the windows that are cut from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ophnet_ray.settings import Rule, count_rules, setting
from ophnet_ray.temporal_config import MAX_FOLDS

Coverage = Literal["spread", "head"]
WindowImage = Literal["mean", "center", "mean+motion"]
Demo = Literal["short", "long"]
MissingVideos = Literal["error", "skip"]
CaseFrom = Literal["auto", "column", "folder", "name", "clip"]
MAX_IMAGE_SIZE = 8192


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The annotated segments."""

    csv_path: str | None = setting(None, affects="location", is_path=True)
    """Annotation CSV: rows `video_path, phase` (clips) or `video_id, start, end, phase_id`
    (segments of long videos, in seconds). Without it, the built-in demo data set."""
    demo: Demo = setting("short", affects="location")
    """The demo data set that is used without csv_path: short, every phase recognisable in one
    window; long, with phases that differ only by what went before."""
    video_dir: str | None = setting(None, affects="location", is_path=True)
    """Folder of the videos (default: the CSV's folder)."""
    allow_outside: bool = setting(False, affects="location")
    """Read videos that lie outside of video_dir (default: the CSV's folder or bucket), too."""
    case_from: CaseFrom = setting("auto", affects="location")
    """Source of the cases: the case_id column, the folder of a video, the name of a clip
    (<case>-<phase>-<start>-<end>), or clip: each video is a case of its own; auto: the column, else
    the name of a clip, else the video of a segment."""
    val_fraction: float = setting(0.2, affects="data")
    """Share of the cases held out for validation, when the CSV has no split column."""
    folds: int | None = setting(None, affects="data", is_late=True)
    """Cross-validation: deal all cases but those of split test out to so many folds, each phase as
    evenly as can be, and train a model per fold, which its cases validate and the others train;
    tune.py does so for each trial. The same cases and phases have the same folds, whatever the
    other settings."""
    fold: int | None = setting(None, affects="data", is_late=True)
    """Train the model of this fold of --folds alone, from 1."""
    missing_videos: MissingVideos = setting("error", affects="data")
    """Action when a video of the CSV does not exist: stop, or skip its rows."""
    max_rejected: float = setting(0.02, affects="data")
    """Maximum share of rows that cannot be read; with more, the run stops."""

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield (
            0 < self.val_fraction < 1,
            f"--val_fraction {self.val_fraction}: must be between 0 and 1",
        )
        yield 0 <= self.max_rejected <= 1, f"--max_rejected {self.max_rejected}: must be 0 to 1"
        yield (
            self.folds is None or 2 <= self.folds <= MAX_FOLDS,
            f"--folds {self.folds}: must be 2 to {MAX_FOLDS}",
        )
        yield (
            self.fold is None or 1 <= self.fold <= (self.folds or 0),
            f"--fold {self.fold}: must be 1 to the number of --folds",
        )

    @property
    def num_folds(self) -> int | None:
        """Folds that are trained, all of them; None for a holdout, also for that of one fold."""
        return self.folds if self.fold is None else None

    @property
    def fold_name(self) -> str:
        """Name of the fold that is held out, e.g. ``fold2of5``; empty without one."""
        return f"fold{self.fold}of{self.folds}" if self.fold is not None else ""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows: the model inputs cut from a segment."""

    window_size: int = setting(16, affects="decoding")
    """Frames averaged into one model input; a multiple of stride."""
    stride: int = setting(8, affects="decoding")
    """Frames between the starts of neighbouring windows."""
    max_frames: int = setting(64, affects="decoding")
    """Maximum number of frames read per segment."""
    coverage: Coverage = setting("spread", affects="decoding")
    """Frames read: snippets of consecutive frames spread over the segment, or its first frames
    (head)."""
    image_size: int = setting(224, affects="decoding")
    """Height and width of the model input, pixels; a multiple of 32."""
    window_image: WindowImage = setting("mean", affects="decoding", is_late=True)
    """Picture of a window: the mean of its frames; center, the frame in its middle, which is sharp;
    or mean+motion, with one more mask: where neighbouring blocks of stride frames differ."""

    @property
    def stored_image(self) -> Literal["mean", "center"]:
        """Picture of a block in the cache: its mean, or one frame of it."""
        return "center" if self.window_image == "center" else "mean"

    @property
    def blocks_per_window(self) -> int:
        """Blocks (means of ``stride`` frames) averaged into one model input."""
        return self.window_size // self.stride

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield 1 <= self.stride <= 256, f"--stride {self.stride}: must be 1 to 256"
        yield (
            self.window_size >= 1 and self.window_size % max(self.stride, 1) == 0,
            f"--window_size {self.window_size} is not a multiple of --stride {self.stride}",
        )
        yield (
            self.window_image != "mean+motion" or self.window_size > self.stride,
            f"--window_image mean+motion: give --window_size {2 * self.stride} or a lower --stride",
        )
        yield (
            self.max_frames >= self.window_size,
            f"--max_frames {self.max_frames} is less than --window_size {self.window_size}",
        )
        yield from count_rules(self, "max_frames")
        yield (
            self.image_size in range(32, MAX_IMAGE_SIZE + 1, 32),
            f"--image_size {self.image_size} is not a multiple of 32; try 128 or 224",
        )
