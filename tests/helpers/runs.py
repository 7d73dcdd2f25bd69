"""The smallest real run, as settings and as a command line, its weights and worker processes."""

import re
from pathlib import Path

import psutil
import torch

from ophnet_ray import OphNetDataModule
from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.train.driver import TrainingResult, train


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


def run(config: Config) -> TrainingResult:
    """Train in this process, as ``train.py`` does."""
    return train(config, Console())


def decode_here(csv_path: Path, cache_dir: Path, image_size: int) -> str:
    """Fill a cache in this process; return its folder. One worker trains on it without Ray."""
    OphNetDataModule(csv_path, image_size=image_size, cache_dir=str(cache_dir)).setup()
    return str(cache_dir)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


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
