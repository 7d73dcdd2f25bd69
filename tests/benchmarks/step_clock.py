"""Clock of a train worker, used under Ray Train and under plain Lightning."""

import json
import time
from pathlib import Path

import lightning as L  # noqa: N812 - Lightning's own convention


class StepClock(L.Callback):
    """Callback that writes CPU-seconds and seconds per step of each epoch.

    It measures from the end of an epoch's first step to the end of its last one: data loading and
    the process's other threads count, the time between epochs does not. ``first_step_s`` is the
    time of day at which the first step began.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._marks: list[tuple[float, float]] = []
        self._epochs: list[tuple[float, float]] = []
        self._first_step_s = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._first_step_s = self._first_step_s or time.time()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._marks.append((time.process_time(), time.monotonic()))

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        (first_cpu, first), (last_cpu, last) = self._marks[0], self._marks[-1]
        steps = len(self._marks) - 1
        self._epochs.append(((last_cpu - first_cpu) / steps, (last - first) / steps))
        self._marks.clear()

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            measured = {"epochs": self._epochs, "first_step_s": self._first_step_s}
            self._file.write_text(json.dumps(measured))
