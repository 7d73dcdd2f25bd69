"""Ledger and faults of train workers, for processes whose ``PYTHONPATH`` names this folder and
the root of the repository.

``OPHNET_LEDGER`` names a folder. Each worker appends a line per step: time, rank, epoch, step and
the windows of its batch. ``OPHNET_FAULT`` is a JSON list: ``what`` happens to ``rank`` before its
step number ``step`` (counted over epochs, from 0), when it comes there for the first time, or the
``visit``-th; ``nan_batch`` each time. With ``slow``, every step of all workers takes ``seconds``
more. A fault with ``video`` happens before the features of the ``video``-th video are written.
With ``OPHNET_NO_FLOCK``, no file can be locked. ``OPHNET_CHANGES`` names a folder: the file
``changes`` of the ledger grows by a byte for each file or folder that is put in place below it.
Python runs this module when a process starts.
"""

import errno
import fcntl
import json
import os
import signal
import time
from pathlib import Path

from tests.helpers.import_hook import after_import

PATIENCE_S = 300.0


def watch_steps(module):
    """Record each step before it is trained, and let the faults happen at their own."""
    before_step = module.EpochCallback.on_train_batch_start

    def record_and_strike(callback, trainer, pl_module, batch, batch_idx):
        before_step(callback, trainer, pl_module, batch, batch_idx)
        record(trainer, batch_idx)
        strike(trainer, pl_module, batch, batch_idx)

    module.EpochCallback.on_train_batch_start = record_and_strike


def record(trainer, batch_idx):
    """Append a line to this process's ledger."""
    sampler = trainer.train_dataloader.sampler
    windows = next(sampler.steps(batch_idx)).windows.tolist()
    line = {
        "time_s": time.time(),
        "rank": trainer.global_rank,
        "workers": trainer.world_size,
        "epoch": trainer.current_epoch,
        "step": batch_idx,
        "windows": windows,
    }
    path = Path(os.environ["OPHNET_LEDGER"]) / f"{trainer.global_rank}.{os.getpid()}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def strike(trainer, pl_module, batch, batch_idx):
    """Let the faults happen that are for this worker's step, and have not happened yet."""
    here = trainer.global_rank, trainer.current_epoch * trainer.num_training_batches + batch_idx
    for number, fault in enumerate(json.loads(os.environ.get("OPHNET_FAULT", "[]"))):
        if fault["what"] == "slow":
            time.sleep(fault["seconds"])
        elif here == (fault.get("rank"), fault.get("step")):
            if fault["what"] == "nan_batch":
                batch["image"].fill_(float("nan"))
            elif count_visit(number) == fault.get("visit", 1):
                strike_once(fault["what"], pl_module)


def watch_features(module):
    """Let the faults of videos happen before their features are written."""
    write = module.FeatureStore.write

    def strike_and_write(store, sequence):
        for number, fault in enumerate(json.loads(os.environ.get("OPHNET_FAULT", "[]"))):
            if "video" in fault and count_visit(number) == fault["video"]:
                strike_once(fault["what"], None)
        write(store, sequence)

    module.FeatureStore.write = strike_and_write


def count_visit(number):
    """Return how often a worker has come to the step of a fault, over all processes."""
    folder = Path(os.environ["OPHNET_LEDGER"])
    visit = len(list(folder.glob(f"visit-{number}-*"))) + 1
    (folder / f"visit-{number}-{visit}").touch(exist_ok=False)
    return visit


def strike_once(what, pl_module):
    """Let a fault happen."""
    folder = Path(os.environ["OPHNET_LEDGER"])
    (folder / "struck").touch()
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "wait":  # until the harness has struck from outside
            deadline_s = time.monotonic() + PATIENCE_S
            while not (folder / "go on").exists() and time.monotonic() < deadline_s:
                time.sleep(0.01)
        case "short":  # as a loader that has fewer batches than those of the others
            raise StopIteration
        case "nan":
            next(pl_module.parameters()).data.fill_(float("nan"))


def refuse_locks(fcntl):
    """Answer as a file system without locks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    fcntl.flock = flock


def count_changes(os, folder):
    """Append a byte to a file of the ledger after each change of a name below a folder."""
    counter = Path(os.environ["OPHNET_LEDGER"]) / "changes"

    def counting(change):
        def change_and_count(source, target, **options):
            change(source, target, **options)
            if os.fsdecode(target).startswith(folder):
                with counter.open("ab", buffering=0) as file:
                    file.write(b".")

        return change_and_count

    os.replace, os.rename = counting(os.replace), counting(os.rename)


if "OPHNET_NO_FLOCK" in os.environ:
    refuse_locks(fcntl)
if "OPHNET_CHANGES" in os.environ:
    count_changes(os, os.environ["OPHNET_CHANGES"])
if "OPHNET_LEDGER" in os.environ:
    after_import("ophnet_ray.train.epoch_callback", watch_steps)
    after_import("ophnet_ray.data.features.store", watch_features)
