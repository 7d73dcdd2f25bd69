"""Ledger and faults of train workers, for processes whose ``PYTHONPATH`` names this folder.

``OPHNET_LEDGER`` names a folder. Each worker appends a line per step: time, rank, epoch, step and
the windows of its batch. ``OPHNET_FAULT`` is JSON: ``what`` happens to ``rank`` before its step
number ``step`` (counted over epochs, from 0), once. Python runs this module when a process starts.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

CALLBACK = "ophnet_ray.train.epoch_callback"
PATIENCE_S = 300.0


class Injector:
    """Finder of the callback's module: wraps its hook before each step once it is loaded."""

    def find_spec(self, name, _path=None, _target=None):
        if name != CALLBACK or "OPHNET_LEDGER" not in os.environ:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_wrap(module):
            load(module)
            before_step = module.EpochCallback.on_train_batch_start

            def record_and_strike(callback, trainer, pl_module, batch, batch_idx):
                before_step(callback, trainer, pl_module, batch, batch_idx)
                record(trainer, batch_idx)
                strike(trainer, pl_module, batch_idx)

            module.EpochCallback.on_train_batch_start = record_and_strike

        spec.loader.exec_module = load_and_wrap
        return spec


def record(trainer, batch_idx):
    """Append a line to this process's ledger."""
    sampler = trainer.train_dataloader.sampler
    windows = next(sampler.steps(batch_idx)).windows.tolist()
    line = {
        "time_s": time.time(),
        "rank": trainer.global_rank,
        "epoch": trainer.current_epoch,
        "step": batch_idx,
        "windows": windows,
    }
    path = Path(os.environ["OPHNET_LEDGER"]) / f"{trainer.global_rank}.{os.getpid()}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def strike(trainer, pl_module, batch_idx):
    """Let the fault happen if it is this worker's step, and has not happened yet."""
    fault = json.loads(os.environ.get("OPHNET_FAULT", "{}"))
    step = trainer.current_epoch * trainer.num_training_batches + batch_idx
    if not fault or (trainer.global_rank, step) != (fault["rank"], fault["step"]):
        return
    folder = Path(os.environ["OPHNET_LEDGER"])
    try:
        (folder / "struck").touch(exist_ok=False)
    except FileExistsError:
        return
    match fault["what"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":  # until the harness has struck from outside
            deadline_s = time.monotonic() + PATIENCE_S
            while not (folder / "go on").exists() and time.monotonic() < deadline_s:
                time.sleep(0.01)
        case "nan":
            next(pl_module.parameters()).data.fill_(float("nan"))


sys.meta_path.insert(0, Injector())
