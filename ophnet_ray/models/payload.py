"""Content of a checkpoint beside its weights: phases, preprocessing, settings, scores.

Everything that reads a checkpoint comes through ``CheckpointPayload.from_dict``, which checks the
format version. Only this module and ``checkpoint_file`` know the keys on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import Config, MaskKind, Pooling, WindowConfig, WindowImage, path_settings
from ophnet_ray.data.windows import count_channels, name_masks
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.metrics.cell_counts import CellCounts
from ophnet_ray.models.counts_record import dump_counts, read_counts
from ophnet_ray.models.decoder import Decoder
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.models.temporal_spec import HeadPayload
from ophnet_ray.models.training_summary import TrainingSummary
from ophnet_ray.models.worker_state import WorkerState
from ophnet_ray.storage.paths import name_of

if TYPE_CHECKING:
    # loaded by the functions that need it: commands refuse wrong flags before torch loads

    from ophnet_ray.models.network import SurgicalPhaseClassificationModel

FORMAT_VERSION = 4
"""Versions before one of these must not read a checkpoint that has what it names.

2: the checkpoint pools other tokens than all. 3: it holds a temporal model. 4: its windows show
other pictures than the mean of their frames. What earlier versions may ignore (``origin``,
``train_video_hashes``) changes no version.
"""
PAYLOAD_KEY = "ophnet_ray"
"""Key of the payload in a checkpoint, beside Lightning's own keys."""
SMOOTHING_KEY = "smoothing_choice"
"""Key of the kept choice of a smoothing, in the payload."""
TEMPERATURE_KEY = "temperature_choice"
"""Key of the kept temperature, in the payload; earlier versions ignore it: the labels are equal."""
_WINDOWS_KEY, _SEGMENTS_KEY = "confusion_by_case", "segments_by_case"
_DURATIONS_KEY = "milliseconds_by_case"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Input of the network: pictures of ``window_size`` consecutive RGB frames, normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    mask: MaskKind
    image_size: int
    window_size: int
    stride: int
    window_image: WindowImage = "mean"
    """Picture of a window; checkpoints that do not say show the mean of its frames."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the picture of a window."""
        return count_channels(self.window_image), self.image_size, self.image_size

    @property
    def masks(self) -> str:
        """Name of the masks that the network fuses, the motion included."""
        return name_masks(self.mask, self.window_image)

    @classmethod
    def of_network(cls, network: "SurgicalPhaseClassificationModel", windows: WindowConfig) -> Self:
        """Describe the input of a network that is trained on windows of these settings."""
        return cls(
            mean=tuple(network.mean.tolist()),
            std=tuple(network.std.tolist()),
            mask=network.mask,
            image_size=windows.image_size,
            window_size=windows.window_size,
            stride=windows.stride,
            window_image=windows.window_image,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``; keys that a later version added are ignored."""
        return cls(
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            mask=values["mask"],
            image_size=values["image_size"],
            window_size=values["window_size"],
            stride=values["stride"],
            window_image=values.get("window_image", "mean"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        values: dict[str, Any] = {
            "mean": list(self.mean),
            "std": list(self.std),
            # no choice, and read by nothing here; older versions refuse a checkpoint without it
            "color": "RGB",
            "mask": self.mask,
            "image_size": self.image_size,
            "window_size": self.window_size,
            "stride": self.stride,
        }
        if self.window_image != "mean":
            values["window_image"] = self.window_image
        return values


def describe_settings(config: Config) -> dict[str, Any]:
    """Return the settings by flag name; paths without their folders, which may name people."""
    flat = config.to_flat()
    return flat | {name: name_of(flat[name]) for name in path_settings() if flat[name]}


@dataclass(frozen=True, slots=True)
class SmoothingChoice:
    """The smoothing that was chosen on held-out cases, see ``evaluate --keep_choice``."""

    smooth: str
    chosen_on: str
    """The split whose scores decided."""
    by: tuple[str, ...]
    """Names of the scores that decided."""
    decoder: Decoder | None = None
    """Settings of the smoothing ``tuned``; None for the others."""
    look_ahead_s: float | None = None
    """Seconds after each time that a label depended on when it was chosen; None: the whole
    video."""
    knows_look_ahead: bool = True
    """False in the choices of earlier versions, which do not say it."""
    case_hashes: tuple[str, ...] = ()
    """Pseudonyms of the cases that chose it: scores on them say too much of it."""
    gain: Mapping[str, float] | None = None
    """Gain over no smoothing in the mean of ``by`` on cases that did not choose, with the ends of
    its 95 % interval: ``value``, ``low``, ``high``. None where it is not known."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``, also those of older versions."""
        decoder, gain = values.get("decoder"), values.get("gain")
        return cls(
            values["smooth"],
            values["chosen_on"],
            tuple(values["by"]),
            None if decoder is None else Decoder.from_dict(decoder),
            values.get("look_ahead_s"),
            "look_ahead_s" in values,
            tuple(values.get("case_hashes", ())),
            None if gain is None else dict(gain),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        values: dict[str, Any] = {
            "smooth": self.smooth,
            "chosen_on": self.chosen_on,
            "by": list(self.by),
        }
        if self.knows_look_ahead:
            values["look_ahead_s"] = self.look_ahead_s
        if self.case_hashes:
            values["case_hashes"] = list(self.case_hashes)
        if self.decoder is not None:
            values["decoder"] = self.decoder.to_dict()
        if self.gain is not None:
            values["gain"] = dict(self.gain)
        return values

    def fits(self, look_ahead_s: float | None) -> bool:
        """Return True if it holds for labels with this look-ahead."""
        if self.smooth == "none" or not self.knows_look_ahead:
            return True
        return self.look_ahead_s == look_ahead_s


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointPayload:
    """Everything in a checkpoint that is neither a weight nor Lightning's own."""

    phases: tuple[str, ...]
    """Id or name of each label's phase."""
    preprocessing: Preprocessing
    config: Mapping[str, Any]
    """Settings of the training run by flag name, as its version wrote them; paths: names only."""
    data_hash: str
    history: tuple[Mapping[str, float], ...]
    """Records of the finished epochs, as in ``metrics.jsonl``."""
    training: TrainingSummary
    window_counts: CellCounts | None = None
    """Validation windows by case, label and prediction; of a temporal model its frames. None in
    checkpoints that are older than this record."""
    segment_counts: CellCounts | None = None
    """The same with each segment counted once, shared out among its windows; None likewise."""
    duration_counts: CellCounts | None = None
    """The same in milliseconds of annotated video, see ``data.durations``; None unless the run
    chooses its best epoch by a score of frames."""
    workers: tuple[WorkerState, ...] = ()
    """State of each worker by rank, in a checkpoint inside an epoch; else empty."""
    smoothing: SmoothingChoice | None = None
    """The kept choice of ``evaluate``, if there is one."""
    temperature_choice: TemperatureChoice | None = None
    """The kept temperature, likewise."""
    pooling: Pooling = "all"
    """Tokens behind the feature of an image; checkpoints that do not say average all of them."""
    head: HeadPayload | None = None
    """The temporal model; None in the checkpoint of a frame model."""
    origin: Origin | None = None
    """Origin of the weights; None unless the training started from a checkpoint."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: object) -> Self:
        """Read the values of ``to_dict``, also those of older versions.

        Args:
            values: What the checkpoint holds under ``PAYLOAD_KEY``.
            source: Path of the checkpoint, for errors.

        Raises:
            UserError: A newer version wrote it, or a value is missing or damaged.
        """
        try:
            if values["format_version"] > FORMAT_VERSION:
                raise UserError(f"checkpoint {source} is of a newer ophnet-ray; install that one")
            smoothing = values.get(SMOOTHING_KEY)
            head, origin = values.get("head"), values.get("origin")
            temperature = values.get(TEMPERATURE_KEY)
            return cls(
                phases=tuple(values["phases"]),
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                config=dict(values["config"]),
                data_hash=values["data_hash"],
                history=tuple(values["history"]),
                training=TrainingSummary.from_dict(values, len(values["phases"])),
                window_counts=read_counts(values, _WINDOWS_KEY, np.int64),
                segment_counts=read_counts(values, _SEGMENTS_KEY, np.float64),
                duration_counts=read_counts(values, _DURATIONS_KEY, np.float64),
                workers=tuple(WorkerState.from_dict(state) for state in values.get("workers", ())),
                smoothing=None if smoothing is None else SmoothingChoice.from_dict(smoothing),
                temperature_choice=None
                if temperature is None
                else TemperatureChoice.from_dict(temperature),
                pooling=values.get("pooling", "all"),
                head=None if head is None else HeadPayload.from_dict(head),
                origin=None if origin is None else Origin.from_dict(origin),
            )
        except KeyError as error:
            raise UserError(f"checkpoint {source} is damaged: it lacks {error}") from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            reason = one_line(error, max_chars=160)
            raise UserError(f"checkpoint {source} is damaged: {reason}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, as they stand in the file."""
        values: dict[str, Any] = {
            "format_version": self._format_version(),
            "phases": list(self.phases),
            "preprocessing": self.preprocessing.to_dict(),
            "config": dict(self.config),
            "data_hash": self.data_hash,
            "history": [dict(record) for record in self.history],
            **self.training.to_dict(),
            "workers": [worker.to_dict() for worker in self.workers],
        }
        counts: tuple[tuple[CellCounts | None, str, type[np.generic]], ...] = (
            (self.window_counts, _WINDOWS_KEY, np.int32),
            (self.segment_counts, _SEGMENTS_KEY, np.float64),
            (self.duration_counts, _DURATIONS_KEY, np.float64),
        )
        for each, key, dtype in counts:
            values |= {} if each is None else dump_counts(each, key, dtype)
        if self.pooling != "all":
            values["pooling"] = self.pooling
        if self.smoothing is not None:
            values[SMOOTHING_KEY] = self.smoothing.to_dict()
        if self.temperature_choice is not None:
            values[TEMPERATURE_KEY] = self.temperature_choice.to_dict()
        if self.head is not None:
            values["head"] = self.head.to_dict()
        if self.origin is not None:
            values["origin"] = self.origin.to_dict()
        return values

    def _format_version(self) -> int:
        """Return the lowest version that can read this checkpoint."""
        if self.preprocessing.window_image != "mean":
            return 4
        if self.head is not None:
            return 3
        return 1 if self.pooling == "all" else 2

    @property
    def temperature(self) -> float:
        """Temperature of the probabilities; 1 unless one is kept."""
        return 1.0 if self.temperature_choice is None else self.temperature_choice.temperature

    @property
    def seen_case_hashes(self) -> frozenset[str]:
        """Pseudonyms of all cases that the weights were trained on, before this training, too."""
        before = self.origin.case_hashes if self.origin else ()
        return frozenset((*self.training.case_hashes, *before))

    @property
    def seen_video_hashes(self) -> frozenset[str] | None:
        """Content ids of the videos of these cases; None where a training did not record them."""
        own, before = self.training.video_hashes, self.origin.video_hashes if self.origin else ()
        return None if own is None or before is None else frozenset((*own, *before))

    @property
    def segments_by_case(self) -> NDArray[np.float64] | None:
        """All of ``segment_counts``, (C, K, K); None in checkpoints that hold none."""
        return None if self.segment_counts is None else self.segment_counts.to_dense()

    @property
    def milliseconds_by_case(self) -> NDArray[np.float64] | None:
        """All of ``duration_counts``, (C, K, K); None in checkpoints that hold none."""
        return None if self.duration_counts is None else self.duration_counts.to_dense()

    @property
    def settings(self) -> Config:
        """Settings of the training run; those that this version does not know are left out."""
        known = Config().to_flat()
        kept = {name: value for name, value in self.config.items() if name in known}
        return Config().replace_flat(**kept)

    def validation_counts(self) -> NDArray[np.int64]:
        """Return all of ``window_counts``, (C, K, K).

        Raises:
            UserError: The checkpoint holds none.
        """
        if self.window_counts is None:
            raise UserError(
                "the checkpoint holds no counts of its validation windows: a version of "
                "ophnet-ray before they were recorded wrote it; train again"
            )
        return self.window_counts.to_dense()
