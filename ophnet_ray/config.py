"""Every knob and default of a run, as frozen dataclasses; a field's docstring is its ``--help``."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

import yaml

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.storage.files import read_bytes
from ophnet_ray.storage.paths import absolute, check_location, is_remote

Coverage = Literal["spread", "head"]
MaskKind = Literal["rg", "chroma", "none"]
WeightScheme = Literal["none", "inverse", "inverse_sqrt", "effective", "logit_adjusted", "focal"]
_RESERVED = ("", "..", "cache")
LRSchedule = Literal["constant", "one_cycle"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
LOGGERS = ("tensorboard", "mlflow", "wandb")
Strategy = Literal["ddp", "fsdp"]
Placement = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which segments are used."""

    csv_path: str | None = None
    """Annotation CSV: rows `video_path, phase` (clips) or `video_id, start, end, phase_id`
    (segments of long videos, in seconds). Without it, the built-in demo data set."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    val_fraction: float = 0.2
    """Share of the cases held out for validation, when the CSV has no split column."""
    missing_videos: Literal["error", "skip"] = "error"
    """What to do when a video of the CSV is not there."""
    max_rejected: float = 0.02
    """Stop when more than this share of the rows cannot be read."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a segment is cut into model inputs."""

    window_size: int = 16
    """Frames averaged into one model input; a multiple of stride."""
    stride: int = 8
    """Frames between the starts of neighbouring windows."""
    max_frames: int = 64
    """Most frames read of a segment."""
    coverage: Coverage = "spread"
    """Which frames: runs of neighbouring frames spread over the segment, or its head."""
    image_size: int = 224
    """Height and width of the model input, pixels; a multiple of 32."""

    @property
    def blocks_per_window(self) -> int:
        """Blocks (means of ``stride`` frames) averaged into one model input."""
        return self.window_size // self.stride


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    backbone: str = "maxvit_large_tf_224.in21k"
    """Image encoder: any timm model name."""
    pretrained: bool = True
    """Start the encoder from timm's pretrained weights."""
    backbone_weights: str | None = None
    """Start the encoder from this file (.safetensors, .pt, .ckpt) instead."""
    mask: MaskKind = "rg"
    """Masks for the fusion: red and green channel, chromaticity, or no fusion."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The optimisation."""

    batch_size: int = 8
    """Windows a step and train worker."""
    lr: float = 1e-4
    """Learning rate of Adam."""
    lr_schedule: LRSchedule = "constant"
    """How lr changes: not at all, or once up and down over the run."""
    max_epochs: int = 30
    """Passes over the training segments; each takes one window of every segment."""
    class_weights: WeightScheme = "none"
    """How the loss makes up for rare phases, from the training rows: weights of the phases,
    logits adjusted by the phases' frequency, or the focal loss."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients are added before an optimiser step."""
    random_shift: float = 0.05
    """Largest random shift of a training image, as a share of its size; 0 for none."""
    color_jitter: float = 0.1
    """Largest random change of a training image's red, green and blue gain; 0 for none."""
    precision: Precision = "auto"
    """Lightning's precision; auto is bf16-mixed on a GPU and 32-true on a CPU."""
    strategy: Strategy = "ddp"
    """How the workers share the model: ddp, a whole copy each; fsdp, a part each, for backbones
    whose training does not fit one GPU."""
    train_workers: int | None = None
    """Ray Train workers (default: the cluster's GPUs, else 1)."""
    threads_per_worker: int | None = None
    """CPU threads of a train worker (default: the machine's cores shared out)."""
    use_gpu: Literal["auto", "true", "false"] = "auto"
    """Train on GPUs; auto: when the cluster has one."""
    seed: int = 42
    """Seed of the split, the order, the windows and the weights."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run is kept and with what it is done; nothing here changes a result."""

    output_pth: str = "model.ckpt"
    """The best checkpoint is copied here."""
    num_workers: int = 4
    """Parallel decode workers."""
    storage_path: str = "runs"
    """Folder of the runs."""
    name: str | None = None
    """Name of the run (default: from the CSV's name and the settings). The same name resumes."""
    cache_dir: str | None = None
    """Folder of the decoded windows (default: <storage_path>/cache)."""
    local_cache_dir: str | None = None
    """Folder on each machine for what it fetches from buckets (default: of your own in the
    system's temporary folder)."""
    every_n_train_steps: int | None = None
    """Keep a checkpoint after so many optimiser steps, too (default: after each epoch only)."""
    placement_strategy: Placement = "PACK"
    """Train workers on few nodes, or on many; STRICT: on one node, or on one each, else not."""
    wait_for_nodes_s: int = 0
    """Wait so many seconds for nodes that an autoscaler adds; 0: the cluster is as it is."""
    logger: str = "tensorboard"
    """Where curves go, with commas between: tensorboard, mlflow, wandb."""

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names in ``logger``."""
        return tuple(name.strip() for name in self.logger.split(",") if name.strip())


_PATHS = (
    "csv_path",
    "video_dir",
    "backbone_weights",
    "output_pth",
    "storage_path",
    "cache_dir",
    "local_cache_dir",
)
DEFAULT_CACHE_DIR = str(Path(RunConfig.storage_path) / "cache")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run."""

    data: DataConfig = field(default_factory=DataConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_flat(self) -> dict[str, Any]:
        """All fields by flag name, in the order of ``--help``."""
        return {name: value for part in asdict(self).values() for name, value in part.items()}

    def replace_flat(self, **values: Any) -> Self:
        """A copy with fields, given by flag name, replaced.

        Raises:
            UserError: No field has that name, or a value is not of the field's type.
        """
        parts = {}
        for part in fields(self):
            current = getattr(self, part.name)
            hints = get_type_hints(type(current))
            chosen = {name: values.pop(name) for name in hints if name in values}
            parts[part.name] = replace(
                current, **{name: _coerce(name, hints[name], v) for name, v in chosen.items()}
            )
        if values:
            raise UserError(
                f"unknown setting {', '.join(sorted(values))}; see --help for the names"
            )
        return replace(self, **parts)

    def identity(self) -> dict[str, Any]:
        """The settings that determine the result: everything but ``RunConfig``.

        ``video_dir`` and ``csv_path`` are left out too: what they hold is told apart by the
        hash of the segments, wherever it lies.
        """
        settings = self.to_flat()
        for name in (*(f.name for f in fields(RunConfig)), "csv_path", "video_dir"):
            del settings[name]
        return settings

    def identity_hash(self, data_hash: str) -> str:
        """Eight hexadecimal digits that change with any setting or data that changes the result."""
        text = json.dumps([self.identity(), data_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def check_locations(self) -> None:
        """Refuse URIs that cannot be used or hold credentials, before anything repeats them.

        Raises:
            UserError: Naming the flag.
        """
        settings = self.to_flat()
        for name in _PATHS:
            if settings[name] is not None:
                check_location(f"--{name}", settings[name])
        if is_remote(self.run.local_cache_dir or ""):
            raise UserError("--local_cache_dir: must be a folder of this machine, not a bucket")

    def validate(self) -> None:
        """Check what needs no file and no cluster.

        Raises:
            UserError: Naming the flag, its value and the cure.
        """
        self.check_locations()
        w, t, d = self.windows, self.training, self.data
        rules = [
            (1 <= w.stride <= 256, f"--stride {w.stride}: must be 1 to 256"),
            (
                w.window_size >= 1 and w.window_size % max(w.stride, 1) == 0,
                f"--window_size {w.window_size} is not a multiple of --stride {w.stride}",
            ),
            (
                w.max_frames >= w.window_size,
                f"--max_frames {w.max_frames} is less than --window_size {w.window_size}",
            ),
            (
                w.image_size >= 32 and w.image_size % 32 == 0,
                f"--image_size {w.image_size} is not a multiple of 32; try 128 or 224",
            ),
            (t.batch_size >= 1, f"--batch_size {t.batch_size}: must be at least 1"),
            (t.lr > 0, f"--lr {t.lr}: must be more than 0"),
            (t.max_epochs >= 1, f"--max_epochs {t.max_epochs}: must be at least 1"),
            (
                t.accumulate_grad_batches >= 1,
                f"--accumulate_grad_batches {t.accumulate_grad_batches}: must be at least 1",
            ),
            (0 <= t.random_shift < 0.5, f"--random_shift {t.random_shift}: must be 0 to 0.5"),
            (0 <= t.color_jitter < 1, f"--color_jitter {t.color_jitter}: must be 0 to 1"),
            (
                t.train_workers is None or t.train_workers >= 1,
                f"--train_workers {t.train_workers}: must be at least 1",
            ),
            (
                t.threads_per_worker is None or t.threads_per_worker >= 1,
                f"--threads_per_worker {t.threads_per_worker}: must be at least 1",
            ),
            (t.seed >= 0, f"--seed {t.seed}: must not be negative"),
            (0 < d.val_fraction < 1, f"--val_fraction {d.val_fraction}: must be between 0 and 1"),
            (0 <= d.max_rejected <= 1, f"--max_rejected {d.max_rejected}: must be 0 to 1"),
            (
                self.run.every_n_train_steps is None or self.run.every_n_train_steps >= 1,
                f"--every_n_train_steps {self.run.every_n_train_steps}: must be at least 1",
            ),
            (
                bool(self.run.loggers) and set(self.run.loggers) <= set(LOGGERS),
                f"--logger {self.run.logger}: choose from {', '.join(LOGGERS)}",
            ),
            (
                self.run.wait_for_nodes_s >= 0,
                f"--wait_for_nodes_s {self.run.wait_for_nodes_s}: must not be negative",
            ),
            (self.run.num_workers >= 1, f"--num_workers {self.run.num_workers}: at least 1"),
            (
                self.run.name is None
                or (Path(self.run.name).name == self.run.name and self.run.name not in _RESERVED),
                f"--name {self.run.name}: must be a plain folder name, without a path",
            ),
        ]
        check_rules(rules)


def check_rules(rules: Iterable[tuple[bool, str]]) -> None:
    """Raise a ``UserError`` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise UserError(message)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def with_demo_settings(config: AnyConfig) -> AnyConfig:
    """Settings for the demo data set: a small backbone that a laptop trains in a minute."""
    return config.replace_flat(
        image_size=128,
        backbone="test_efficientnet",
        pretrained=False,
        lr=2e-3,
        lr_schedule="one_cycle",
        max_epochs=24,
    )


def read_config(path: str, base: AnyConfig) -> AnyConfig:
    """Read settings, by flag name, from a YAML file over ``base``.

    Raises:
        UserError: The file is missing, is no YAML mapping, or holds an unknown setting.
    """
    check_location("--config", path)
    try:
        values = yaml.safe_load(read_bytes(absolute(path)).decode())
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"--config {path}: not a YAML file ({reason})") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected lines of `flag: value`")
    try:
        return base.replace_flat(**{str(name): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from error


def dump_config(config: Config) -> str:
    """The settings as YAML that ``read_config`` reads back."""
    flat = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_flat().items()}
    return yaml.safe_dump(flat, sort_keys=False)


def _coerce(name: str, hint: Any, value: Any) -> Any:
    """Check a value against a field's type; YAML writes 1e-4 as text and true as a boolean."""
    if get_origin(hint) is Literal:
        text = str(value).lower() if isinstance(value, bool) else value
        if text in get_args(hint):
            return text
        raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, get_args(hint)))}")
    if get_origin(hint) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(name, get_args(hint)[0], item) for item in values)
    accepted = get_args(hint) or (hint,)
    if type(value) in accepted:
        return value
    if float in accepted and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if str in accepted and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = " or ".join("empty" if kind is type(None) else kind.__name__ for kind in accepted)
    raise UserError(f"{name}: {value!r} is not {names}")
