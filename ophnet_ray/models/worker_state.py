"""State of a train worker inside an epoch, as a checkpoint keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    # loaded by the functions that need it: commands refuse wrong flags before torch loads
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """State of one train worker inside an epoch, from which it resumes to the same weights."""

    module: dict[str, "torch.Tensor"]
    """``PhaseModule.worker_state``."""
    loader: dict[str, int]
    """``TrainingLoader.state_dict``."""
    random: dict[str, "torch.Tensor"]
    """States of torch's random generators by device."""
    seconds: float
    """Seconds since the start of the epoch."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``."""
        return cls(
            module=values["module"],
            loader=values["loader"],
            random=values["random"],
            seconds=values["seconds"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "module": dict(self.module),
            "loader": dict(self.loader),
            "random": dict(self.random),
            "seconds": self.seconds,
        }
