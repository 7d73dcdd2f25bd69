"""Remains of a command in its folder, in a form that two commands can be compared by.

Left out: logs and TensorBoard's curves, which tell the time, Ray Train's own record of checkpoints,
which a command begins anew, and how the cache is cut into files. Of files of other kinds (YAML,
reports) only the names are compared.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

OF_CLOCK = {"seconds", "data_wait_share", "images_per_second", "mfu"}
"""Speed and time of an epoch."""
CHECKSUMS = {"sha256", "metrics_sha256", "checksum", "size_bytes", "checkpoint_sha256"}
"""Of files that tell the time, too."""
LEFT_OUT = ("logs", "tensorboard", "checkpoint_manager_snapshot.json")


def list_remains(folder: Path) -> dict[str, Any]:
    """Return what is below a folder, by path: of scores, records and weights the content."""
    remains = {}
    for file in sorted([*folder.glob("*.ckpt"), *(folder / "runs").rglob("*")]):
        path = file.relative_to(folder)
        if file.is_file() and not any(part in LEFT_OUT for part in path.parts):
            remains[str(path)] = _read(file, folder)
    for file in sorted((folder / "cache").rglob("*.npz")):
        remains[str(file.relative_to(folder))] = _read(file, folder)
    # half-written files of the cache have names like those of other folders
    for file in sorted((folder / "cache").rglob("*.tmp*")):
        remains[str(file.relative_to(folder))] = "temporary"
    return remains


def find_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the paths that only one of two has, or whose content differs."""
    return [
        *(f"missing: {path}" for path in wanted if path not in found),
        *(f"left: {path}" for path in found if path not in wanted),
        *(
            f"differs: {path} ({_show(wanted[path], found[path])})"
            for path in wanted
            if path in found and wanted[path] != found[path]
        ),
    ]


def _read(file: Path, folder: Path) -> Any:
    match file.suffix:
        case ".ckpt":
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            return {name: _hash(tensor.numpy()) for name, tensor in state.items()}
        case ".npz":
            with np.load(file) as arrays:
                return {name: _hash(arrays[name]) for name in arrays.files}
        case ".json":
            return _without_clock(json.loads(file.read_text().replace(str(folder), "")))
        case ".jsonl":
            return [_without_clock(json.loads(line)) for line in file.read_text().splitlines()]
        case ".csv":
            with file.open(newline="") as rows:
                return [_without_clock(row) for row in csv.DictReader(rows)]
        case _:
            return None


def _hash(array: np.ndarray[Any, Any]) -> str:
    content = np.ascontiguousarray(array)
    return f"{content.dtype} {content.shape} {hashlib.sha256(content.tobytes()).hexdigest()}"


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_clock(each)
            for name, each in value.items()
            if name not in OF_CLOCK | CHECKSUMS
        }
    return [_without_clock(each) for each in value] if isinstance(value, list) else value


def _show(wanted: Any, found: Any) -> str:
    """Return the first part in which two contents differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = [*wanted, *(name for name in found if name not in wanted)]
        name = next(name for name in names if wanted.get(name) != found.get(name))
        return f"{name}: {_show(wanted.get(name), found.get(name))}"
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = zip(wanted, found, strict=True)
        return next(_show(ours, theirs) for ours, theirs in pairs if ours != theirs)
    return f"{wanted!r:.60} / {found!r:.60}"
