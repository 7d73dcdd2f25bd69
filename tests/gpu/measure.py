"""All measurements of one model, in a process of its own."""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ophnet_ray.data.manifest import Manifest
from ophnet_ray.errors import one_line
from ophnet_ray.models.compilation import compile_network
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.memory_format import StepShape, time_formats
from ophnet_ray.models.throughput import find_peak
from ophnet_ray.recipe_config import DEFAULT_RECIPE, RecipeName
from ophnet_ray.speed_config import CompileMode
from tests.gpu.prediction import time_predict, write_checkpoint
from tests.gpu.scale import GPU, TOY, Scale
from tests.gpu.training import (
    Clock,
    build_module,
    build_timm_model,
    count_compilations,
    count_flops,
    profile_ours,
    repeats,
    time_bare,
    time_matrix_product,
    time_ours,
    time_plain,
)
from tests.gpu.workload import draw_video, write_windows

COMPILED = ("compiled", "graphs", "default_compiled", "plain_compiled", "bare_compiled")
"""Measurements that compile: the product's step, by itself, with CUDA graphs, and with the default
recipe of ``train.py``; a plain loop over its network, and over timm's."""
REPEATED = ("bare", "plain", "ours")
"""Measurements that are compared: they take turns, and the fastest of each counts. Steps wait for a
CPU that others use, too, which only ever makes them slower."""


@dataclass(frozen=True)
class Place:
    """Device and folders of a model's measurements."""

    device: torch.device
    work: Path
    out: Path


def measure(
    backbone: str, batch_size: int, scale: Scale, place: Place, only: Sequence[str] = ()
) -> None:
    """Measure a model; a measurement that fails is an error by name, and the next one follows.

    The file of results is written after each: they survive a process that is ended.

    Args:
        backbone: timm model.
        batch_size: Images per step.
        scale: Sizes.
        place: Device and folders.
        only: Names of the measurements; empty for those of the scale.
    """
    device, folder = place.device, place.work / backbone
    results: dict[str, Any] = {"batch_size": batch_size, "machine": describe_machine(device)}
    errors = results["errors"] = {}
    shape = StepShape(batch_size, scale.image_size, torch.bfloat16, device)

    def clock() -> Clock:
        return Clock(scale.warmup_steps, scale.max_steps, scale.seconds)

    def memory_format() -> torch.memory_format:
        is_last = results.get("memory_format", {"channels_last": 0, "contiguous": 1})
        is_faster = is_last["channels_last"] < is_last["contiguous"]
        return torch.channels_last if is_faster else torch.contiguous_format

    @cache
    def module() -> SurgicalPhaseModule:
        return build_module(backbone, scale.image_size, memory_format())

    @cache
    def timm_model() -> torch.nn.Module:
        return build_timm_model(backbone, scale.image_size)

    @cache
    def plain_module() -> SurgicalPhaseModule:
        return build_module(backbone, scale.image_size)

    @cache
    def windows() -> Manifest:
        steps = scale.warmup_steps + scale.max_steps + 1
        return write_windows(folder / "windows", scale.image_size, steps * batch_size)

    def time_fit(own: SurgicalPhaseModule, recipe: RecipeName = "seed") -> dict[str, float | None]:
        return time_ours(own, windows(), batch_size, clock(), folder, device, recipe)

    def ours() -> dict[str, float | None]:
        return time_fit(module())

    def with_compilation(
        network: torch.nn.Module,
        time_steps: Callable[[], dict[str, float | None]],
        mode: CompileMode = "default",
    ) -> dict[str, float | None]:
        torch.compiler.reset()
        compile_network(network, folder / "compiled", mode)
        before, started_s = count_compilations(), time.perf_counter()
        found = time_steps() | {"seconds": time.perf_counter() - started_s}
        return found | {name: num - before[name] for name, num in count_compilations().items()}

    def compiled(mode: CompileMode = "default") -> dict[str, float | None]:
        fast = build_module(backbone, scale.image_size, memory_format())
        return with_compilation(fast.model, lambda: time_fit(fast), mode)

    def default_recipe() -> dict[str, float | None]:
        own = build_module(backbone, scale.image_size, memory_format(), DEFAULT_RECIPE)
        return time_fit(own, DEFAULT_RECIPE)

    def default_compiled() -> dict[str, float | None]:
        own = build_module(backbone, scale.image_size, memory_format(), DEFAULT_RECIPE)
        return with_compilation(own.model, lambda: time_fit(own, DEFAULT_RECIPE))

    def bare_compiled() -> dict[str, float | None]:
        model = build_timm_model(backbone, scale.image_size)
        return with_compilation(model, lambda: time_bare(model, shape, memory_format(), clock()))

    def plain_compiled() -> dict[str, float | None]:
        own = build_module(backbone, scale.image_size)
        return with_compilation(own.model, lambda: time_plain(own, shape, memory_format(), clock()))

    def profiled() -> float:
        kernels_s, tables = profile_ours(module(), windows(), batch_size, folder, device)
        (place.out / f"{backbone}.profile.txt").write_text(tables)
        return kernels_s

    def deterministic() -> bool:
        manifest = write_windows(folder / "few", scale.image_size, 16)
        return repeats(module(), manifest, folder, device)

    def predict() -> dict[str, float]:
        file = write_checkpoint(folder / "m.ckpt", module().model, backbone, scale.image_size)
        return time_predict(file, draw_video(place.work / "v.mp4", *scale.video), device)

    def bare() -> dict[str, float | None]:
        return time_bare(timm_model(), shape, memory_format(), clock())

    def plain() -> dict[str, float | None]:
        return time_plain(plain_module(), shape, memory_format(), clock())

    parts: dict[str, Callable[[], Any]] = {
        "flops_per_image": lambda: count_flops(backbone, scale.image_size),
        "matrix_product_flops_s": lambda: time_matrix_product(scale.matrix, device),
        "memory_format": lambda: time_formats(
            build_module(backbone, scale.image_size).model, shape
        ),
        "bare": bare,
        "plain": plain,
        "ours": ours,
        "default_recipe": default_recipe,
        "compiled": compiled,
        "graphs": lambda: compiled("reduce-overhead"),
        "default_compiled": default_compiled,
        "plain_compiled": plain_compiled,
        "bare_compiled": bare_compiled,
        "repeats": deterministic,
        "predict": predict,
        # the profiler slows down all that comes after it
        "kernels_s": profiled,
    }
    if only:
        parts = {name: part for name, part in parts.items() if name in only}
    else:
        chosen = ("compiled", "graphs") if backbone in scale.compiled else ()
        for name in COMPILED:
            if name not in chosen:
                del parts[name]
    folder.mkdir()
    compared = [name for name in REPEATED if name in parts]
    order = [name for name in parts if name not in compared]
    first = list(parts).index(compared[0]) if compared else 0
    order[first:first] = compared * scale.rounds
    for name in order:
        try:
            results[name] = faster(results.get(name), parts[name]())
        except Exception as error:  # noqa: BLE001 - whatever fails is a line of the table
            errors[name] = f"{type(error).__name__}: {one_line(error, max_chars=200)}"
        gc.collect()  # after the error, whose frames hold tensors
        if device.type == "cuda":
            torch.cuda.empty_cache()
        (place.out / f"{backbone}.json").write_text(json.dumps(results, indent=1))


def faster(before: Any, found: Any) -> Any:
    """Return the measurement with more images per second; what was not measured before is new."""
    if before is None or found["images_s"] > before["images_s"]:
        return found
    return before


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the device, its peak rate if it is known, and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = find_peak(name)
    return {
        "device": name,
        "peak_flops_s": peak,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **{name: import_module(name).__version__ for name in ("torch", "lightning", "timm", "av")},
    }


def main() -> None:
    """Measure the model that the arguments name."""
    backbone, batch_size, scale, work, out, *only = sys.argv[1:]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = Place(device, Path(work), Path(out))
    measure(backbone, int(batch_size), {"gpu": GPU, "toy": TOY}[scale], place, only)


if __name__ == "__main__":
    main()
