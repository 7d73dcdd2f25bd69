"""Flags of folders, names and workers: nothing here changes a result."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ophnet_ray.settings import Rule, count_rules, parse_bytes, setting, show

LOGGERS = ("tensorboard", "mlflow", "wandb")
_RESERVED = ("", "..", "cache")
MAX_NAME_BYTES = 240
"""Bytes of a name: file systems take 255, and a fold adds its number."""
_MAX_BYTES_OF_LINUX = 255
Placement = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


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
        yield (
            name is None or len(os.fsencode(name)) <= MAX_NAME_BYTES or self._has_folder(name),
            f"--name {(name or '')[:20]}… is too long for a folder (max {MAX_NAME_BYTES} bytes)",
        )

    def _has_folder(self, name: str) -> bool:
        """Return True if an earlier version has made a folder of a name that is too long now."""
        return (
            len(os.fsencode(name)) <= _MAX_BYTES_OF_LINUX and Path(self.storage_path, name).is_dir()
        )


DEFAULT_CACHE_DIR = str(Path(RunConfig.storage_path) / "cache")
