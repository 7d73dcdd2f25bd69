"""What a train worker is told."""

from dataclasses import dataclass
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.distributed.cluster import Resources
from ophnet_ray.train.run_directory import RunDirectory


@dataclass(frozen=True)
class TrainLoopConfig:
    """All that a train worker is told.

    ``status`` is the actor that shows how far it is, None where nobody watches.
    """

    config: Config
    manifest: Manifest
    resources: Resources
    run: RunDirectory
    data_hash: str
    status: Any = None
