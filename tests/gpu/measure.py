"""All measurements of one model, in a process of its own."""

import gc
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ophnet_ray.errors import one_line
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from tests.gpu.prediction import time_predict, write_checkpoint
from tests.gpu.scale import GPU, TOY, Scale
from tests.gpu.training import (
    Clock,
    build_module,
    count_flops,
    repeats,
    time_bare,
    time_matrix_product,
    time_ours,
)
from tests.gpu.workload import draw_video, write_windows

# TFLOP/s of dense bfloat16 products without sparsity, from the data sheets
PEAKS = {
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "H200": 989.4,
    "GH200": 989.4,
    "A100": 311.9,
    "A10G": 70.0,
    "A40": 149.7,
    "L40S": 362.1,
    "L4": 121.0,
}


@dataclass(frozen=True)
class Place:
    """Device and folders of a model's measurements."""

    device: torch.device
    work: Path
    out: Path


def measure(backbone: str, batch_size: int, scale: Scale, place: Place) -> None:
    """Measure a model; a measurement that fails is an error by name, and the next one follows.

    The file of results is written after each: they survive a process that is ended.
    """
    device, folder = place.device, place.work / backbone
    results: dict[str, Any] = {"batch_size": batch_size, "machine": describe_machine(device)}
    errors = results["errors"] = {}

    def clock() -> Clock:
        return Clock(scale.warmup_steps, scale.max_steps, scale.seconds)

    @cache
    def module() -> SurgicalPhaseModule:
        return build_module(backbone, scale.image_size)

    def ours() -> dict[str, float | None]:
        steps = scale.warmup_steps + scale.max_steps + 1
        manifest = write_windows(folder / "windows", scale.image_size, steps * batch_size)
        return time_ours(module(), manifest, batch_size, clock(), folder, device)

    def deterministic() -> bool:
        manifest = write_windows(folder / "few", scale.image_size, 16)
        return repeats(module(), manifest, folder, device)

    def predict() -> dict[str, float]:
        file = write_checkpoint(folder / "m.ckpt", module().model, backbone, scale.image_size)
        return time_predict(file, draw_video(place.work / "v.mp4", *scale.video), device)

    parts: dict[str, Callable[[], Any]] = {
        "flops_per_image": lambda: count_flops(backbone, scale.image_size),
        "matrix_product_flops_s": lambda: time_matrix_product(scale.matrix, device),
        "bare": lambda: time_bare(backbone, scale.image_size, batch_size, clock(), device),
        "ours": ours,
        "predict": predict,
        "repeats": deterministic,
    }
    folder.mkdir()
    for name, part in parts.items():
        try:
            results[name] = part()
        except Exception as error:  # noqa: BLE001 - whatever fails is a line of the table
            errors[name] = f"{type(error).__name__}: {one_line(error, max_chars=200)}"
        gc.collect()  # after the error, whose frames hold tensors
        if device.type == "cuda":
            torch.cuda.empty_cache()
        (place.out / f"{backbone}.json").write_text(json.dumps(results, indent=1))


def find_peak(device: str) -> float | None:
    """Return the peak rate of a GPU by its name, TFLOP/s; None for one that is not in the table."""
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", device)), None)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the device, its peak rate if it is known, and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = find_peak(name)
    return {
        "device": name,
        "peak_flops_s": None if peak is None else peak * 1e12,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **{name: import_module(name).__version__ for name in ("torch", "lightning", "timm", "av")},
    }


def main() -> None:
    """Measure the model that the arguments name."""
    backbone, batch_size, scale, work, out = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = Place(device, Path(work), Path(out))
    measure(backbone, int(batch_size), {"gpu": GPU, "toy": TOY}[scale], place)


if __name__ == "__main__":
    main()
