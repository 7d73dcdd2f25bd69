"""Cost of Ray Train: a training step, against plain Lightning DDP, and the start of a run."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ophnet_ray.data.demo import make_demo
from tests.benchmarks.measure import MIN_REPEATS
from tests.benchmarks.table import Figure

ROOT = Path(__file__).parents[2]
EPOCHS = 16
WORKERS = (1, 2)
THREADS = 1
"""Threads per worker: two workers do twice the work of one."""

# ``train.py`` with a clock in its train loop
CLOCKED = """
import train
from ophnet_ray.cli import arguments as cli
from ophnet_ray.train import trainer
from tests.benchmarks.clocked_loop import clocked_train_loop
trainer.train_loop = clocked_train_loop
cli.run_program(train.main)
"""

# the same data, model, settings and loop, with Lightning's own launcher instead of Ray Train
BARE = """
import sys
from pathlib import Path
from ophnet_ray import OphNetDataModule
from ophnet_ray import SurgicalPhaseClassificationModel
from ophnet_ray import SurgicalPhaseModule
import lightning as L, torch
from lightning.pytorch.strategies import DDPStrategy
from tests.benchmarks.step_clock import StepClock
csv_path, cache_dir, workers, epochs, folder, file = sys.argv[1:]
torch.manual_seed(42)
data = OphNetDataModule(csv_path, image_size=128, cache_dir=cache_dir)
model = SurgicalPhaseClassificationModel(6, "test_efficientnet", pretrained=False, image_size=128)
module = SurgicalPhaseModule(num_classes=6, lr=2e-3, model=model, lr_schedule="one_cycle")
L.Trainer(max_epochs=int(epochs), accelerator="cpu", devices=int(workers),
    callbacks=[StepClock(Path(file))],
    strategy=DDPStrategy(broadcast_buffers=False, process_group_backend="gloo"), precision=32,
    num_sanity_val_steps=0, use_distributed_sampler=False, enable_progress_bar=False,
    log_every_n_steps=10, enable_model_summary=False, default_root_dir=folder,
).fit(module, data)
"""


class Pace(NamedTuple):
    """CPU-seconds and seconds per step of rank 0, median over its epochs."""

    cpu_s: float
    wall_s: float


def compare_with_bare_lightning(folder: Path) -> list[Figure]:
    """Compare a step of rank 0 and the scaling under both; time the stages of a run."""
    folder = folder.absolute()
    csv_path = make_demo(folder / "demo")
    train_on_ray(csv_path, folder, 1)  # fills the cache
    paces: dict[tuple[str, int], list[Pace]] = {}
    stages = []
    for _ in range(MIN_REPEATS):
        for workers in WORKERS:
            pace, started_s = train_on_ray(csv_path, folder, workers)
            stages += [started_s] if workers == 1 else []
            paces.setdefault(("ray", workers), []).append(pace)
            paces.setdefault(("bare", workers), []).append(train_bare(csv_path, folder, workers))
    step = {key: Pace(*map(statistics.median, zip(*p, strict=True))) for key, p in paces.items()}
    figures = []
    for workers in WORKERS:
        ours, bare = step["ray", workers], step["bare", workers]
        note = f"{ours.cpu_s * 1e3:.1f} and {bare.cpu_s * 1e3:.1f} CPU-ms, {ours.wall_s * 1e3:.1f} "
        note += f"and {bare.wall_s * 1e3:.1f} ms per step"
        name = f"step: Ray Train / plain Lightning DDP, {workers} worker(s)"
        figures.append(Figure(name, ours.cpu_s / bare.cpu_s, note, "<= 1.03"))
    for kind, name in (("ray", "Ray Train"), ("bare", "plain Lightning DDP")):
        scaling = 2 * step[kind, 1].wall_s / step[kind, 2].wall_s
        note = f"windows per second, {THREADS} thread per worker"
        figures.append(Figure(f"2 workers / 1, {name}", scaling, note))
    for stage in stages[0]:
        began_s = statistics.median(started[stage] for started in stages)
        figures.append(Figure(f"seconds from the start: {stage}", began_s, "1 worker, cache full"))
    return figures


def train_on_ray(csv_path: Path, folder: Path, workers: int) -> tuple[Pace, dict[str, float]]:
    """Run ``train.py``; return the pace of rank 0 and the start of each stage in seconds."""
    name = f"cost-{workers}-{time.time():.0f}"
    flags = "--image_size 128 --backbone test_efficientnet --no_pretrained --lr 2e-3 --lr_schedule "
    flags += f"one_cycle --max_epochs {EPOCHS} --train_workers {workers} --name {name} "
    flags += f"--recipe seed --threads_per_worker {THREADS}"
    paths = ["--csv_path", csv_path, "--cache_dir", folder / "demo", "--storage_path", folder]
    paths += ["--output_pth", folder / "model.ckpt"]
    started_s = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOCKED, *flags.split(), *map(str, paths)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    beginnings = {
        r"Ray.* dashboard": "Ray is up",
        r"decode +nothing": "the cache is checked",
        r"training on": "the workers are requested",
    }
    stages = {}
    for line in process.stdout:
        for pattern, stage in beginnings.items():
            if re.search(pattern, line):
                stages[stage] = time.time() - started_s
    if process.wait():
        raise RuntimeError(f"train.py failed: see {folder / name / 'logs'}")
    log = (folder / name / "logs/train-rank-0.log").read_text()
    (ready,) = re.findall(r"^(\S+ \S+) .*is process", log, re.MULTILINE)
    measured = json.loads((folder / name / "steps.json").read_text())
    stages["a worker is up"] = datetime.fromisoformat(ready).timestamp() - started_s
    stages["the first step"] = measured["first_step_s"] - started_s
    stages["the end"] = time.time() - started_s
    return _pace(measured), stages


def train_bare(csv_path: Path, folder: Path, workers: int) -> Pace:
    """Run the plain Lightning loop; return the pace of rank 0."""
    script = folder / "bare.py"  # Lightning starts it again for the second worker
    script.write_text(BARE)
    file = folder / "steps.json"
    arguments = [csv_path, folder / "demo", str(workers), str(EPOCHS), folder, file]
    subprocess.run(
        [sys.executable, script, *arguments],
        # by default Lightning gives one process all cores; Ray sets this for its workers
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(THREADS)},
        check=True,
        capture_output=True,
    )
    return _pace(json.loads(file.read_text()))


def _pace(measured: dict[str, list[list[float]]]) -> Pace:
    epochs = measured["epochs"][1:]  # the first one is slower
    return Pace(*map(statistics.median, zip(*epochs, strict=True)))
