"""What Ray Train costs: CPU of the train workers a step, beside a bare Lightning DDP loop."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ophnet_ray.demo import make_demo
from tests.benchmarks.table import Figure

ROOT = Path(__file__).parents[2]
EPOCHS = 10
STEPS = {1: 33, 2: 16}
"""Of the demo's 266 training segments in batches of 8 a worker."""

# the same data, model, settings and loop, with Lightning's own launcher in Ray Train's place
BARE = """
import json, os, sys, time
from ophnet_ray import OphNetDataModule, SurgicalPhaseClassificationModel, SurgicalPhaseModule
import lightning as L, torch
from lightning.pytorch.strategies import DDPStrategy
csv_path, cache_dir, workers, epochs, folder = sys.argv[1:]
torch.set_num_threads(2 // int(workers))
class Clock(L.Callback):
    cpu_s, wall_s = [], []
    def on_train_epoch_end(self, *_):
        self.cpu_s.append(time.process_time()); self.wall_s.append(time.monotonic())
torch.manual_seed(42)
data = OphNetDataModule(csv_path, image_size=128, cache_dir=cache_dir)
model = SurgicalPhaseClassificationModel(6, "test_efficientnet", pretrained=False, image_size=128)
module = SurgicalPhaseModule(num_classes=6, lr=2e-3, model=model, lr_schedule="one_cycle")
L.Trainer(max_epochs=int(epochs), accelerator="cpu", devices=int(workers), callbacks=[Clock()],
    strategy=DDPStrategy(broadcast_buffers=False, process_group_backend="gloo"), precision=32,
    num_sanity_val_steps=0, use_distributed_sampler=False, enable_progress_bar=False,
    log_every_n_steps=10, enable_model_summary=False, default_root_dir=folder,
).fit(module, data)
if os.environ.get("LOCAL_RANK", "0") == "0":
    print(json.dumps([Clock.cpu_s, Clock.wall_s]))
"""


def compare_with_bare_lightning(folder: Path) -> list[Figure]:
    """CPU-seconds of the first rank a step, without the first two epochs; wall time is a note."""
    folder = folder.absolute()
    csv_path = make_demo(folder / "demo")
    figures, epoch_s = [], {}
    for workers in STEPS:
        cpu_s, epoch_s[workers] = train_on_ray(csv_path, folder, workers)
        bare_cpu_s, bare_s = train_bare(csv_path, folder, workers)
        note = (
            f"{cpu_s * 1e3:.1f} and {bare_cpu_s * 1e3:.1f} CPU-ms a step, {epoch_s[workers]:.2f} "
        )
        note += f"and {bare_s:.2f} s an epoch"
        name = f"Ray Train / bare Lightning DDP, {workers} workers"
        figures.append(Figure(name, cpu_s / bare_cpu_s, note, "<= 1.03"))
    scaling = epoch_s[1] / epoch_s[2]
    return [*figures, Figure("2 workers: times as fast as 1", scaling, "both cores busy with 1")]


def train_on_ray(csv_path: Path, folder: Path, workers: int) -> tuple[float, float]:
    """``train.py``: CPU-seconds of rank 0 a step, seconds an epoch."""
    name = f"cost-{workers}-{time.time():.0f}"
    flags = "--image_size 128 --backbone test_efficientnet --no_pretrained --lr 2e-3 --lr_schedule "
    flags += f"one_cycle --max_epochs {EPOCHS} --train_workers {workers} --name {name}"
    paths = ["--csv_path", csv_path, "--cache_dir", folder / "demo", "--storage_path", folder]
    paths += ["--output_pth", folder / "model.ckpt"]
    command = [sys.executable, ROOT / "train.py", *flags.split(), *paths]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    marks: list[tuple[float, float]] = []
    history, log = folder / name / "metrics.jsonl", folder / name / "logs/train-rank-0.log"
    while process.poll() is None:
        lines = history.read_text().count("\n") if history.exists() else 0
        if lines > len(marks):
            worker = psutil.Process(int(re.findall(r"is process (\d+)", log.read_text())[-1]))
            times = worker.cpu_times()
            marks += [(times.user + times.system, time.monotonic())] * (lines - len(marks))
        time.sleep(0.01)
    return _rates([m[0] for m in marks], [m[1] for m in marks], workers)


def train_bare(csv_path: Path, folder: Path, workers: int) -> tuple[float, float]:
    """The bare loop: CPU-seconds of rank 0 a step, seconds an epoch."""
    script = folder / "bare.py"  # Lightning starts it again for the second worker
    script.write_text(BARE)
    command = [sys.executable, script, csv_path, folder / "demo", str(workers), str(EPOCHS), folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu_s, wall_s = json.loads(done.stdout.splitlines()[-1])
    return _rates(cpu_s, wall_s, workers)


def _rates(cpu_s: list[float], wall_s: list[float], workers: int) -> tuple[float, float]:
    first, last = 1, EPOCHS - 2  # the last mark may be taken when the worker is at its end
    epochs = last - first
    cpu_a_step = (cpu_s[last] - cpu_s[first]) / (epochs * STEPS[workers])
    return cpu_a_step, (wall_s[last] - wall_s[first]) / epochs
