"""The smallest real run, as settings and as a command line."""

from pathlib import Path

from ophnet_ray.config import Config


def tiny_config(csv_path: Path, storage: Path, **settings) -> Config:
    """The smallest real run: a 32-pixel image, a small backbone, few epochs."""
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
    """The command line that gives these settings."""
    flags = []
    for name, value in config.to_flat().items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            flags += [f"--{name}", *value]
        elif value is not None:
            flags += [f"--{name}", str(value)]
    return flags
