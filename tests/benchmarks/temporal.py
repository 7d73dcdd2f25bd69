"""Frame model, decoding and temporal models on the long demo, whose look-alike phases need time.

All is done by the commands that users call, and read from their ``scores.json``. Each seed has
test cases of its own: they choose no epoch and no decoder. Answers are kept below ``--folder``:
the same command resumes after a kill, and ``--seeds 0`` does one seed alone.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.demo import make_demo
from ophnet_ray.data.demo_world import LONG
from ophnet_ray.data.segments import Segment
from ophnet_ray.train.head_folds import ENCODER_FILE
from tests.benchmarks.table import Figure
from tests.helpers.paths import ROOT, TRAIN_PY

SEEDS = (0, 1, 2)
NUM_TEST, NUM_VAL = 5, 4
NETWORK = ("--backbone", "test_efficientnet", "--no_pretrained", "--image_size", "128")
SCHEDULE = (
    "--recipe", "seed", "--lr", "2e-3", "--lr_schedule", "one_cycle", "--max_epochs", "24"
)  # fmt: skip
"""Settings that ``train.py --recipe seed`` uses on its demo."""
SHOWN = ("macro_f1_present", "segmental_edit", "segmental_f1@50")
MODELS = ("frame model", "frame model, decoded", "causal head", "offline head")
TARGETS = {"frame model": "<= 0.80", "offline head": ">= 0.95"}
"""Targets of the macro-F1."""

Scores = dict[str, dict[str, Any]]
"""Scores of a ``scores.json`` by name."""


def compare_temporal(folder: Path, seeds: Sequence[int] = SEEDS) -> list[Figure]:
    """Train and score all models under each seed; show each seed, and the mean over seeds."""
    folder = folder.absolute() / "temporal"
    folder.mkdir(parents=True, exist_ok=True)
    demo = make_demo(folder, world=LONG)
    by_seed = {seed: _SeedRun(folder, demo, seed).score() for seed in seeds}
    figures = []
    for model in MODELS:
        for name in SHOWN:
            found = [by_seed[seed][model][name] for seed in seeds]
            target = TARGETS.get(model, "") if name == SHOWN[0] else ""
            mean = float(np.mean([score["value"] for score in found]))
            note = "; ".join(_format_score(score) for score in found)
            figures.append(Figure(f"{model}: {name}", mean, f"by seed {note}", target))
    return figures


class _SeedRun:
    """The models of one seed, and their scores on its test cases.

    Args:
        folder: Folder of all seeds.
        demo: CSV of the demo.
        seed: Seed of the split and of all trainings.
    """

    def __init__(self, folder: Path, demo: Path, seed: int) -> None:
        self._folder = folder / f"seed{seed}"
        self._folder.mkdir(exist_ok=True)
        self._seed, self._videos = seed, demo.parent
        self._csv = self._folder / "split.csv"
        self._test = write_split(demo, self._csv, seed)
        self._storage = folder / "runs"

    def score(self) -> dict[str, Scores]:
        """Train what is not trained yet, and score what is not scored yet."""
        frames = self._storage / f"seed{self._seed}-offline" / ENCODER_FILE
        offline = self._train("offline")
        chosen = self._folder / "frames.ckpt"
        if not chosen.exists():
            chosen.write_bytes(frames.read_bytes())  # the run's own copy stays as it is
        causal = self._train("causal", "--causal", "--encoder", str(frames))
        seen = self._predict(chosen)
        self._evaluate("choice", chosen, "--split", "val", "--keep_choice")
        given = ("--split", "test", "--predictions", str(seen))
        return {
            "frame model": self._evaluate("frames", chosen, *given, "--smooth", "none"),
            "frame model, decoded": self._evaluate("decoded", chosen, *given),
            "causal head": self._evaluate("causal", causal, "--split", "test", "--causal"),
            "offline head": self._evaluate("offline", offline, "--split", "test"),
        }

    def _train(self, name: str, *options: str) -> Path:
        checkpoint = self._folder / f"{name}.ckpt"
        _run(
            checkpoint,
            str(TRAIN_PY), *self._data(), *NETWORK, *SCHEDULE, "--temporal", "mstcn",
            "--name", f"seed{self._seed}-{name}", "--seed", str(self._seed),
            "--storage_path", str(self._storage), "--output_pth", str(checkpoint), *options,
        )  # fmt: skip
        return checkpoint

    def _predict(self, checkpoint: Path) -> Path:
        folder = self._folder / "predictions"
        videos = [str(self._videos / f"{case}.mp4") for case in self._test]
        command = ("-m", "ophnet_ray", "predict", "--checkpoint", str(checkpoint))
        answer = folder / "predictions.parquet"
        _run(answer, *command, "--smooth", "none", "--output", str(folder), "--videos", *videos)
        return answer

    def _evaluate(self, name: str, checkpoint: Path, *options: str) -> Scores:
        answer = self._folder / name / "scores.json"
        command = ("-m", "ophnet_ray", "evaluate", "--checkpoint", str(checkpoint))
        _run(answer, *command, *self._data(), "--output", str(answer.parent), *options)
        return {score["name"]: score for score in json.loads(answer.read_text())["scores"]}

    def _data(self) -> tuple[str, ...]:
        return "--csv_path", str(self._csv), "--video_dir", str(self._videos)


def write_split(demo: Path, target: Path, seed: int) -> list[str]:
    """Write the demo's rows with a split of a seed; return the test cases.

    The test cases of the seeds 0, 1, 2 and 3 are different ones.
    """
    segments = read_annotations(demo)
    in_order = np.random.default_rng(0).permutation(sorted({s.case_id for s in segments}))
    cases = [str(case) for case in np.roll(in_order, -NUM_TEST * seed)]
    split_of = dict.fromkeys(cases, "train")
    split_of |= dict.fromkeys(cases[NUM_TEST : NUM_TEST + NUM_VAL], "val")
    split_of |= dict.fromkeys(cases[:NUM_TEST], "test")
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "start", "end", "phase_id", "split"])
        writer.writerows(_row(segment, split_of[segment.case_id]) for segment in segments)
    return cases[:NUM_TEST]


def _row(segment: Segment, split: str) -> tuple[object, ...]:
    return segment.case_id, segment.start_s, segment.end_s, segment.phase, split


def _run(answer: Path, *command: str) -> None:
    """Run a command of Python from the repository's root, unless its answer exists."""
    if answer.exists():
        return
    done = subprocess.run([sys.executable, *command], stdout=sys.stderr, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")


def _format_score(score: dict[str, Any]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
