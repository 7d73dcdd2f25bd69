"""Flags of ``train.py`` with their limits, as frozen dataclasses; a docstring is the help."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeVar, get_type_hints

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.data_config import (
    CaseFrom,
    Coverage,
    DataConfig,
    Demo,
    MissingVideos,
    WindowConfig,
    WindowImage,
)
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.hashing import hash_identity
from ophnet_ray.recipe_config import RecipeConfig
from ophnet_ray.run_config import DEFAULT_CACHE_DIR, LOGGERS, Placement, RunConfig
from ophnet_ray.sampling_config import SamplingConfig
from ophnet_ray.settings import (
    MAX_REASON_CHARS,
    Effect,
    Rule,
    check_rules,
    coerce,
    count_rules,
    setting,
    worker_rules,
)
from ophnet_ray.speed_config import SpeedConfig
from ophnet_ray.storage.local_copies import hash_content
from ophnet_ray.storage.paths import check_location, is_remote
from ophnet_ray.temporal_config import TemporalConfig

# what users and the other packages import from here, besides what is defined here
__all__ = [
    "DEFAULT_CACHE_DIR",
    "LOGGERS",
    "CaseFrom",
    "Coverage",
    "DataConfig",
    "Demo",
    "MissingVideos",
    "Placement",
    "RunConfig",
    "WindowConfig",
    "WindowImage",
]

MaskKind = Literal["rg", "chroma", "none"]
Pooling = Literal["all", "patches", "class_and_patches"]
WeightScheme = Literal["none", "inverse", "inverse_sqrt", "effective", "logit_adjusted", "focal"]
LRSchedule = Literal["constant", "one_cycle", "cosine"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Strategy = Literal["ddp", "fsdp"]
OnNan = Literal["stop", "skip", "rollback"]
UseGpu = Literal["auto", "true", "false"]
EpochMetric = Literal["val_macro_f1", "val_acc", "val_frame_macro_f1", "val_frame_acc"]
"""Score of the validation windows, or of the annotated time that they stand for."""
DEFAULT_METRIC: EpochMetric = "val_macro_f1"
"""Score that chooses the best epoch where no other is named."""
FRAME_METRICS: tuple[EpochMetric, ...] = ("val_frame_macro_f1", "val_frame_acc")
CONTENT_SETTINGS = ("backbone_weights", "init_checkpoint", "phase_map")
"""Settings of files that a run knows by their content."""


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
    """Start encoder, fusion and classifier from this checkpoint or run directory of train.py
    instead. Phases of equal id or name keep their rows of the classifier; other rows start anew."""
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
