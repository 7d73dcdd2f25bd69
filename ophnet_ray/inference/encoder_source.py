"""Source of an encoder: a checkpoint, or a timm model with its weights and its input."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from ophnet_ray.config import WindowConfig
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import absolute

CHECKPOINT_SUFFIX = ".ckpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSource:
    """Origin of an encoder; small enough to send to every worker.

    Attributes:
        name: A checkpoint of this program (``.ckpt``), or the name of a timm model.
        weights: File with weights of the timm model; None: timm's pretrained ones.
        windows: Input of a timm model; a checkpoint has its own.
    """

    name: str
    weights: str | None = None
    windows: WindowConfig = field(default_factory=WindowConfig)

    @property
    def is_checkpoint(self) -> bool:
        """Return True if the name is that of a checkpoint."""
        return self.name.endswith(CHECKPOINT_SUFFIX)

    def located(self) -> Self:
        """Return the same source with absolute paths, for processes in other folders.

        Raises:
            UserError: A checkpoint is given weights, or a timm model windows with motion.
        """
        if self.is_checkpoint and self.weights is not None:
            raise UserError("--encoder_weights: a checkpoint has its own; leave it out")
        if not self.is_checkpoint and self.windows.window_image == "mean+motion":
            raise UserError(
                f"--window_image mean+motion: the timm model {self.name} sees colours alone; give "
                "mean or center, or a checkpoint of a model that was trained on motion"
            )
        return replace(
            self,
            name=str(Path(self.name).absolute()) if self.is_checkpoint else self.name,
            weights=None if self.weights is None else absolute(self.weights),
        )
