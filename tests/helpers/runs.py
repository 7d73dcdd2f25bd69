"""The smallest real run, as settings and as a command line, and its worker processes."""

import re
from pathlib import Path

import psutil

from ophnet_ray.config import Config


def tiny_config(csv_path: Path, storage: Path, **settings) -> Config:
    """Return the settings of the smallest real run: 32-pixel images, small backbone, few epochs."""
    defaults = {
        "csv_path": str(csv_path),
        "image_size": 32,
        "backbone": "test_resnet",
        "pretrained": False,
        "lr": 2e-3,
        "max_epochs": 2,
        "batch_size": 4,
        "num_workers": 2,
        "storage_path": str(storage / "runs"),
        "output_pth": str(storage / "model.ckpt"),
    }
    return Config().replace_flat(**(defaults | settings))


def flags_of(config):
    """Return the command line that gives these settings."""
    flags = []
    for name, value in config.to_flat().items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            flags += [f"--{name}", *value]
        elif value is not None:
            flags += [f"--{name}", str(value)]
    return flags


def worker_pid(log: Path) -> int:
    """Return the process id of the train worker that writes ``train-rank-N.log``."""
    return int(re.findall(r"is process (\d+)", log.read_text())[-1])


def is_running(pid: int) -> bool:
    """Return True if a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
