"""Flags of ``train.py`` with their limits, as frozen dataclasses; a docstring is the help."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_type_hints

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.hashing import hash_identity
from ophnet_ray.recipe_config import RecipeConfig
from ophnet_ray.sampling_config import SamplingConfig
from ophnet_ray.settings import (
    MAX_REASON_CHARS,
    Effect,
    Rule,
    check_rules,
    coerce,
    count_rules,
    parse_bytes,
    setting,
    show,
    worker_rules,
)
from ophnet_ray.speed_config import SpeedConfig
from ophnet_ray.storage.local_copies import hash_content
from ophnet_ray.storage.paths import check_location, is_remote
from ophnet_ray.temporal_config import MAX_FOLDS, TemporalConfig

Coverage = Literal["spread", "head"]
MaskKind = Literal["rg", "chroma", "none"]
WindowImage = Literal["mean", "center", "mean+motion"]
Demo = Literal["short", "long"]
Pooling = Literal["all", "patches", "class_and_patches"]
MissingVideos = Literal["error", "skip"]
CaseFrom = Literal["auto", "column", "folder", "name", "clip"]
WeightScheme = Literal["none", "inverse", "inverse_sqrt", "effective", "logit_adjusted", "focal"]
_RESERVED = ("", "..", "cache")
LRSchedule = Literal["constant", "one_cycle", "cosine"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
LOGGERS = ("tensorboard", "mlflow", "wandb")
Strategy = Literal["ddp", "fsdp"]
OnNan = Literal["stop", "skip", "rollback"]
UseGpu = Literal["auto", "true", "false"]
EpochMetric = Literal["val_macro_f1", "val_acc", "val_frame_macro_f1", "val_frame_acc"]
"""Score of the validation windows, or of the annotated time that they stand for."""
DEFAULT_METRIC: EpochMetric = "val_macro_f1"
"""Score that chooses the best epoch where no other is named."""
FRAME_METRICS: tuple[EpochMetric, ...] = ("val_frame_macro_f1", "val_frame_acc")
MAX_IMAGE_SIZE = 8192
CONTENT_SETTINGS = ("backbone_weights", "init_checkpoint", "phase_map")
"""Settings of files that a run knows by their content."""
Placement = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


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


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    backbone: str = "maxvit_large_tf_224.in21k"
    """Image encoder: any timm model name."""
    pretrained: bool = True
    """Start the encoder from timm's pretrained weights."""
    backbone_weights: str | None = setting(None, is_path=True)
    """Start the encoder from this file (.safetensors, .pt, .ckpt) instead."""
    init_checkpoint: str | None = setting(None, is_path=True, is_late=True)
    """Start encoder, fusion and classifier from this checkpoint of train.py instead. Phases of
    equal id or name keep their rows of the classifier; other rows start anew."""
    phase_map: str | None = setting(None, is_path=True, is_late=True)
    """CSV with the columns source,target: phases of init_checkpoint and those of the data that take
    their rows, of several the mean (default: phases of equal id or name)."""
    allow_seen_cases: bool = setting(False, affects="nothing")
    """Accept validation cases that init_checkpoint was trained on."""
    allow_noncommercial: bool = setting(False, affects="nothing")
    """Accept pretrained weights whose licence forbids commercial use, e.g. those of ConvNeXt V2."""
    mask: MaskKind = "rg"
    """Masks for the fusion: red and green channel, chromaticity, or no fusion."""

    @property
    def fetches_weights(self) -> bool:
        """True if the encoder starts from timm's pretrained weights."""
        return self.pretrained and self.backbone_weights is None and self.init_checkpoint is None

    @property
    def fine_tunes(self) -> bool:
        """True if the encoder starts from weights of timm or of a file."""
        has_weights = self.pretrained or self.backbone_weights is not None
        return has_weights and self.init_checkpoint is None

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield (
            self.init_checkpoint is None or self.backbone_weights is None,
            "--init_checkpoint, --backbone_weights: both start the encoder; leave one out",
        )
        yield (
            self.phase_map is None or self.init_checkpoint is not None,
            "--phase_map: needs --init_checkpoint, whose phases it maps",
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The optimisation."""

    batch_size: int = 8
    """Windows per step and train worker."""
    lr: float = 1e-4
    """Learning rate."""
    lr_schedule: LRSchedule = "constant"
    """Course of lr: constant; one_cycle, up and down over the run; cosine, down after a warm-up."""
    max_epochs: int = 30
    """Passes over the training segments; each takes the windows that --sampler chooses."""
    class_weights: WeightScheme = "none"
    """Compensation for rare phases in the loss, from the training rows: weights of the phases,
    logits adjusted by the phases' frequency, or the focal loss."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients are added before an optimiser step."""
    random_shift: float = 0.05
    """Maximum random shift of a training image, as a share of its size; 0 for none."""
    color_jitter: float = 0.1
    """Maximum random change of a training image's red, green and blue gain; 0 for none."""
    precision: Precision = "auto"
    """Lightning's precision; auto: bf16-mixed on a GPU, 32-true on a CPU."""
    strategy: Strategy = "ddp"
    """Distribution of the model over the workers: ddp, a whole copy each; fsdp, a part each, for
    backbones whose training does not fit one GPU."""
    train_workers: int | str | None = setting(None, affects="resources")
    """Ray Train workers (default: the cluster's GPUs, else 1). In a range such as 1:4, as many as
    the cluster has room for at any time; the steps are those of the largest number."""
    threads_per_worker: int | None = setting(None, affects="resources")
    """CPU threads per train worker (default: the machine's cores divided by the workers)."""
    use_gpu: UseGpu = setting("auto", affects="resources")
    """Train on GPUs; auto: if the cluster has one."""
    deterministic: bool = setting(False, is_late=True)
    """Use only algorithms of torch whose results repeat, so that runs on GPUs give the same weights
    each time; slower. A run that began without it is another run."""
    on_nan: OnNan = setting("stop", is_late=True)
    """Loss or gradient that is not finite: stop the run, skip the step, or rollback: return to the
    last checkpoint and repeat the steps, the second time without those up to this one."""
    checkpoint_metric: EpochMetric | None = setting(None, is_late=True)
    """Score that chooses the best epoch: val_macro_f1 (default) or val_acc of validation windows;
    val_frame_macro_f1 or val_frame_acc, in which each window counts by the annotated time that it
    stands for, as `evaluate` counts frames."""
    seed: int = 42
    """Seed of the split, the order, the windows and the weights."""

    def __post_init__(self) -> None:
        """Take the default that is spelled out for the default: they are the same run."""
        if self.checkpoint_metric == DEFAULT_METRIC:
            object.__setattr__(self, "checkpoint_metric", None)

    @property
    def epoch_metric(self) -> EpochMetric:
        """Score that chooses the best epoch."""
        return self.checkpoint_metric or DEFAULT_METRIC

    @property
    def scores_frames(self) -> bool:
        """True if the best epoch is chosen by a score of the annotated time."""
        return self.checkpoint_metric in FRAME_METRICS

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield from worker_rules(self.train_workers)
        names = ("batch_size", "max_epochs", "accumulate_grad_batches", "threads_per_worker")
        yield from count_rules(self, *names)
        yield 0 < self.lr < math.inf, f"--lr {self.lr}: must be more than 0, and finite"
        for name, end in (("random_shift", 0.5), ("color_jitter", 1)):
            value = getattr(self, name)
            yield 0 <= value < end, f"--{name} {value}: must be 0 or more, and less than {end}"
        yield 0 <= self.seed < 2**63, f"--seed {self.seed}: must be 0 or more, and less than 2^63"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Folders, names and workers; nothing here changes a result."""

    output_pth: str = setting("model.ckpt", affects="nothing", is_path=True)
    """The best checkpoint is copied here."""
    num_workers: int | None = setting(None, affects="nothing")
    """Parallel decode workers (default: one per CPU of the cluster, or per core of the machine)."""
    storage_path: str = setting("runs", affects="nothing", is_path=True)
    """Folder of the runs."""
    name: str | None = setting(None, affects="nothing")
    """Name of the run (default: from the CSV's name and the settings). The same name resumes."""
    cache_dir: str | None = setting(None, affects="nothing", is_path=True)
    """Folder of the decoded windows (default: <storage_path>/cache)."""
    local_cache_dir: str | None = setting(None, affects="nothing", is_path=True)
    """Folder on each machine for copies of bucket objects, and for compiled code (default: one per
    user in the system's temporary folder)."""
    local_cache_bytes: str | None = setting(None, affects="nothing")
    """Bytes of a cache in a bucket that each machine keeps copies of, e.g. 200GB (default: no
    limit). Files are fetched ahead of the windows, and deleted when others need their room."""
    private: bool = setting(False, affects="nothing")
    """Let no other user of the machines read what a run writes (folder, cache, copies), and name no
    case and no video in Ray's records and logs and in TensorBoard."""
    every_n_train_steps: int | None = setting(None, affects="nothing")
    """Optimiser steps between checkpoints inside an epoch (default: a checkpoint after each epoch
    only)."""
    placement_strategy: Placement = setting("PACK", affects="nothing")
    """Train workers on few nodes (PACK) or many (SPREAD); STRICT refuses any other placement."""
    wait_for_nodes_s: int = setting(0, affects="nothing")
    """Seconds to wait for nodes that an autoscaler adds; 0: use the cluster as it is."""
    collective_timeout_s: int = setting(600, affects="nothing")
    """Seconds that train workers wait for one that does not answer, before training resumes."""
    logger: str = setting("tensorboard", affects="nothing")
    """Loggers of the curves, separated by commas: tensorboard, mlflow, wandb."""

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names in ``logger``."""
        return tuple(name.strip() for name in self.logger.split(",") if name.strip())

    @property
    def max_copy_bytes(self) -> int | None:
        """Bytes of ``local_cache_bytes``."""
        return None if self.local_cache_bytes is None else parse_bytes(self.local_cache_bytes)

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        wait_s, name = self.wait_for_nodes_s, self.name
        yield (
            self.local_cache_bytes is None or bool(self.max_copy_bytes),
            f"--local_cache_bytes {show(self.local_cache_bytes)}: give a size such as 200GB",
        )
        yield from count_rules(self, "every_n_train_steps", "num_workers", "collective_timeout_s")
        yield (
            bool(self.loggers) and set(self.loggers) <= set(LOGGERS),
            f"--logger {self.logger}: choose from {', '.join(LOGGERS)}",
        )
        yield wait_s >= 0, f"--wait_for_nodes_s {wait_s}: must not be negative"
        yield (
            name is None or (Path(name).name == name and name not in _RESERVED),
            f"--name {name}: must be a plain folder name, without a path",
        )


DEFAULT_CACHE_DIR = str(Path(RunConfig.storage_path) / "cache")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training run."""

    data: DataConfig = field(default_factory=DataConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def uses_demo(self) -> bool:
        """True without a CSV: the run uses the built-in demo data set."""
        return self.data.csv_path is None

    def to_flat(self) -> dict[str, Any]:
        """Return all settings by flag name, in the order of ``--help``."""
        return {name: value for part in asdict(self).values() for name, value in part.items()}

    def replace_flat(self, /, **values: Any) -> Self:
        """Return a copy with other values of settings, given by flag name.

        Raises:
            UserError: No setting has that name, or a value is not of the setting's type.
        """
        parts = {}
        for part in fields(self):
            current = getattr(self, part.name)
            hints = get_type_hints(type(current))
            chosen = {name: values.pop(name) for name in hints if name in values}
            coerced = {name: coerce(name, hints[name], value) for name, value in chosen.items()}
            parts[part.name] = replace(current, **coerced)
        if values:
            raise UserError(
                f"unknown setting {one_line(', '.join(sorted(values)), MAX_REASON_CHARS)}; see "
                "--help for the names"
            )
        return replace(self, **parts)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the result.

        The location of the data is left out: the hash of the segments stands for their content. So
        does the hash of each of the ``CONTENT_SETTINGS``. Settings that came late are left out at
        their defaults.

        Raises:
            UserError: One of these files is missing or cannot be read.
        """
        left_out, late = settings_that_affect("location", "nothing"), late_settings()
        values = {
            name: value
            for name, value in self.to_flat().items()
            if name not in left_out and (name not in late or value != late[name])
        }
        for name in CONTENT_SETTINGS:
            if (path := getattr(self.model, name)) is not None:
                values[name] = hash_content(f"--{name}", path)
        return values

    def identity_hash(self, data_hash: str) -> str:
        """Return eight hexadecimal digits for the data and the settings behind a result."""
        return hash_identity(self.identity(), data_hash)

    def check_locations(self) -> None:
        """Refuse URIs that cannot be used or hold credentials, before anything prints them.

        Raises:
            UserError: Naming the flag.
        """
        settings = self.to_flat()
        for name in path_settings():
            if settings[name] is not None:
                check_location(f"--{name}", settings[name])
        if is_remote(self.run.local_cache_dir or ""):
            raise UserError("--local_cache_dir: must be a folder of this machine, not a bucket")

    def validate(self) -> None:
        """Check everything that needs no file and no cluster.

        Raises:
            UserError: Naming the flag, its value and the cure.
        """
        self.check_locations()
        parts = (self.windows, self.model, self.training, self.sampling, self.recipe, self.speed)
        for part in (*parts, self.augmentation, self.temporal, self.data, self.run):
            check_rules(part.rules())
        check_rules(self.recipe.rules_of_strategy(self.training.strategy))


def settings_that_affect(*effects: Effect) -> tuple[str, ...]:
    """Return the names of the settings with these effects, in the order of ``--help``."""
    return tuple(
        part.name for part in _settings() if part.metadata.get("affects", "result") in effects
    )


def path_settings() -> tuple[str, ...]:
    """Return the names of the settings that are paths or URIs."""
    return tuple(part.name for part in _settings() if part.metadata.get("is_path"))


def late_settings() -> dict[str, Any]:
    """Return the settings that runs of earlier versions do not name, with their defaults."""
    return {part.name: part.default for part in _settings() if part.metadata.get("is_late")}


def known_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a folder that an earlier version wrote, as this one writes them."""
    settings = late_settings() | dict(values)
    if settings["checkpoint_metric"] == DEFAULT_METRIC:
        settings["checkpoint_metric"] = None
    return settings


def _settings() -> list[Field[Any]]:
    parts = get_type_hints(Config).values()
    return [each for part in parts for each in fields(part)]


AnyConfig = TypeVar("AnyConfig", bound=Config)
