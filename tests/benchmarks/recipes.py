"""Ablation of the recipe: each of its ingredients added to ``seed``, and left out of ``modern``.

Further lines are of samplers, of augmentation and of the pictures of windows. The data are a demo,
the long demo from a checkpoint of the short one (``transfer``), or a real video with published
weights (``suturing``). Every run is one ``train.py`` command over one cache. Runs are kept below
``--folder``: the same command goes on after a kill, and with other ``--seeds`` it adds to them.
Each seed holds out cases of its own. The counts of a case are added over the seeds that held it
out, and intervals are over cases.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ophnet_ray import OphNetDataModule
from ophnet_ray.config import Config, DataConfig, WindowImage
from ophnet_ray.data.demo import make_demo
from ophnet_ray.data.demo_world import LONG, SHORT
from ophnet_ray.data.run_data import read_run_data
from ophnet_ray.metrics.bootstrap import (
    bootstrap_scores,
    difference_interval,
    score_interval,
)
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.recipe_config import FINE_TUNING, RECIPES
from tests.benchmarks.encoding import LITE2, SUTURING, lite2_weights
from tests.benchmarks.table import Figure
from tests.benchmarks.temporal import SEEDS
from tests.helpers.paths import ROOT, TRAIN_PY

Data = Literal["long", "short", "transfer", "suturing"]
DATA: tuple[Data, ...] = get_args(Data)
Counts = NDArray[np.int64]

INGREDIENTS: dict[str, dict[str, Any]] = {
    "adamw": {"opt": "adamw", "weight_decay": 0.05},
    "layer_decay": {"layer_decay": 0.75},
    "cosine": {"lr_schedule": "cosine", "warmup_ratio": 0.1},
    "clip": {"gradient_clip_val": 1.0},
    "smoothing": {"label_smoothing": 0.1},
    "drop_path": {"drop_path_rate": 0.1},
    "ema": {"model_ema_decay": 0.9998},
}
"""Settings by the ingredient that they make up: those of ``modern``, and drop path.

The layer decay of ``modern`` is for published weights only.
"""
ADDITIONS: dict[str, dict[str, Any]] = {
    "balanced": {"sampler": "balanced"},
    "seconds": {"sampler": "seconds"},
    "augmentation": {
        "scale": 0.6, "rotate": 10, "brightness": 0.1, "contrast": 0.2, "saturation": 0.2,
        "hue": 0.02, "white_balance": 0.1, "blur": 0.1, "noise": 0.1, "glare": 0.1, "reprob": 0.1,
    },
    "center": {"window_image": "center"},
    "motion": {"window_image": "mean+motion"},
}  # fmt: skip
"""Settings that either recipe may have besides its own, each one line more."""
DEMO = ("--image_size", "64", "--max_epochs", "12")
TRANSFER = ("--image_size", "64", "--max_epochs", "4", "--allow_seen_cases")
"""The demos have equal names of cases, and other videos."""
ON_LITE2 = ("--backbone", LITE2, "--image_size", "128", "--lr", "1e-3", "--max_epochs", "16")
PICTURES: tuple[WindowImage, ...] = ("mean", "center")
"""Pictures of windows that are decoded; ``mean+motion`` reads what ``mean`` has decoded."""
PLAIN = ("--recipe", "seed", "--lr_schedule", "constant")
BASE = "seed"


@dataclass(frozen=True)
class DataSet:
    """Data of an ablation: its CSV, and the flags of every run on it."""

    name: Data
    csv_path: Path
    flags: tuple[str, ...]
    image_size: int


def list_lines() -> dict[str, tuple[str, ...]]:
    """Return the flags of each line of the table, the two whole recipes first."""
    defaults = Config().to_flat()
    lines = {BASE: PLAIN, "modern": ("--recipe", "modern")}
    for name, settings in INGREDIENTS.items():
        lines[f"seed-with-{name}"] = (*PLAIN, *_to_flags(settings))
    for name, settings in ADDITIONS.items():
        lines[f"seed-with-{name}"] = (*PLAIN, *_to_flags(settings))
    modern = RECIPES["modern"]
    for name, settings in INGREDIENTS.items():
        if settings.keys() <= (modern | FINE_TUNING["modern"]).keys():
            without = {each: defaults[each] for each in settings}
            lines[f"modern-without-{name}"] = ("--recipe", "modern", *_to_flags(without))
        if not settings.keys() <= modern.keys():
            lines[f"modern-with-{name}"] = ("--recipe", "modern", *_to_flags(settings))
    for name, settings in ADDITIONS.items():
        if not settings.items() <= modern.items():
            lines[f"modern-with-{name}"] = ("--recipe", "modern", *_to_flags(settings))
    return lines


def compare_recipes(
    folder: Path,
    seeds: Sequence[int] = SEEDS,
    data: Data = DATA[0],
    only: Sequence[str] = (),
) -> list[Figure]:
    """Train what is not trained yet, print a Markdown table, and return its figures.

    Args:
        folder: Receives runs and cache.
        seeds: Seeds of split, order and weights.
        data: Data set.
        only: Lines of the table; empty for all.
    """
    folder = folder.absolute() / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    data_set = _prepare(folder, data)
    if data_set is None:
        return []
    every = list_lines()
    if unknown := set(only) - every.keys():
        raise SystemExit(f"--lines {' '.join(unknown)}: choose from {' '.join(every)}")
    chosen = dict.fromkeys((BASE, *(only or every)))
    runs: dict[str, list[Path]] = {line: [] for line in chosen}
    for seed in seeds:
        for line, own in runs.items():
            own.append(_train(folder, data_set, line, every[line], seed))
    counts = {line: _pool(data_set, seeds, own) for line, own in runs.items()}
    figures = []
    for line, own in counts.items():
        # each ingredient of a recipe beside that recipe
        base = "modern" if line.startswith("modern-") and "modern" in counts else BASE
        figures.append(_score(line, own, base, counts[base], runs[line]))
    print(f"\n| {data}, seeds {' '.join(map(str, seeds))} | macro-F1 | by seed, gain |")
    print("|---|---|---|")
    for figure in figures:
        print(f"| {figure.name} | {figure.value:.3f} | {figure.note} |")
    return figures


def _prepare(folder: Path, data: Data) -> DataSet | None:
    """Draw or find the data, and decode them once for all runs, without Ray."""
    cache = folder / "runs" / "cache"
    data_set = _find_suturing(folder) if data == "suturing" else _draw(folder, cache, data)
    if data_set is not None:
        for picture in PICTURES:
            OphNetDataModule(
                data_set.csv_path,
                image_size=data_set.image_size,
                window_image=picture,
                cache_dir=cache,
            ).setup()
    return data_set


def _draw(folder: Path, cache: Path, data: Data) -> DataSet:
    """Draw a demo; train the checkpoint from which ``transfer`` starts."""
    table = make_demo(cache, world=SHORT if data == "short" else LONG)
    flags: tuple[str, ...] = ("--demo", data, *DEMO)
    if data == "transfer":
        start = _prepare(folder, "short")
        source = start and _train(folder, start, "start", ("--recipe", "seed"), 0)
        flags = ("--demo", "long", "--init_checkpoint", str(source), *TRANSFER)
    return DataSet(data, table, flags, 64)


def _find_suturing(folder: Path) -> DataSet | None:
    """Return the real video; None where it or the published weights are missing."""
    weights = lite2_weights(folder)
    if weights is None or not SUTURING.is_dir():
        return None
    (table,) = SUTURING.glob("*.csv")
    flags = ("--csv_path", str(table), "--backbone_weights", str(weights), *ON_LITE2)
    return DataSet("suturing", table, flags, 128)


def _train(folder: Path, data_set: DataSet, line: str, flags: Sequence[str], seed: int) -> Path:
    """Train a run unless it is complete; return its best checkpoint."""
    name = f"{data_set.name}-{line}-seed{seed}"
    checkpoint = folder / f"{name}.ckpt"
    if not (folder / "runs" / name / "scores.json").exists():
        command = (
            sys.executable, str(TRAIN_PY), *data_set.flags, *flags, "--seed", str(seed),
            "--threads_per_worker", "1", "--storage_path", str(folder / "runs"),
            "--output_pth", str(checkpoint), "--name", name,
        )  # fmt: skip
        print(" ".join(command[1:]), file=sys.stderr)
        subprocess.run(command, stdout=sys.stderr, cwd=ROOT, check=True)
    return checkpoint


def _pool(data_set: DataSet, seeds: Sequence[int], checkpoints: Sequence[Path]) -> Counts:
    """Add the counts of each validation case over the seeds that held it out, (C, K, K)."""
    by_case: dict[str, Counts] = {}
    for seed, checkpoint in zip(seeds, checkpoints, strict=True):
        rows = read_run_data(str(data_set.csv_path), DataConfig(), seed, lambda text: None)
        cases = sorted({row.case_id for row in rows.segments if row.split == "val"})
        counts = read_payload(checkpoint).validation_counts()
        for case, own in zip(cases, counts, strict=True):
            by_case[case] = by_case.get(case, np.zeros_like(own)) + own
    return np.stack([by_case[case] for case in sorted(by_case)])


def _score(
    line: str, counts: Counts, base: str, before: Counts, checkpoints: Sequence[Path]
) -> Figure:
    """Score the windows of all cases, with the gain over another line on the same cases.

    Args:
        line: Name of the line.
        counts: Its counts, (C, K, K).
        base: Name of the other line.
        before: The counts of that.
        checkpoints: Runs of the line, one per seed.
    """
    value, other = (macro_f1_present(each.sum(axis=0)) for each in (counts, before))
    of_seeds = [read_payload(file).validation_counts().sum(axis=0) for file in checkpoints]
    note = ", ".join(f"{macro_f1_present(each):.3f}" for each in of_seeds)
    if len(counts) > 1:
        drawn = bootstrap_scores(counts, macro_f1_present)
        low, high = score_interval(value, drawn, len(counts))
        note = f"[{low:.3f}, {high:.3f}], {note}"
        if line != BASE:
            differences = drawn - bootstrap_scores(before, macro_f1_present)
            low, high = difference_interval(value - other, differences, len(counts))
            note += f", over {base} {value - other:+.3f} [{low:+.3f}, {high:+.3f}]"
    return Figure(line, value, note)


def _to_flags(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for name, value in settings.items() for text in (f"--{name}", str(value)))
