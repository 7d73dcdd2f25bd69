"""Metrics of a run for Prometheus, through Ray's own exporter: counts and scores, no path, no id.

Without a connection to Ray, the functions do nothing.

Ray adds a prefix to every name: ``ophnet_epoch`` is scraped as ``ray_ophnet_epoch``. It drops a
gauge that is not set for 20 s, so values that change once per epoch are set every second, too.
"""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from functools import cache

import ray
from ray.util.metrics import Counter, Gauge

from ophnet_ray.data.segments import Reject

GAUGES = {
    "ophnet_step_seconds": "Mean time of a training step",
    "ophnet_samples_per_second": "Windows per second that a worker trains on",
    "ophnet_data_wait_share": "Share of the epoch that waited for data",
    "ophnet_epoch": "Epochs done",
    "ophnet_train_loss": "Training loss of the last epoch",
    "ophnet_val_loss": "Validation loss of the last epoch",
    "ophnet_val_acc": "Validation accuracy of the last epoch",
    "ophnet_val_macro_f1": "Validation macro-F1 of the last epoch",
    "ophnet_gpu_memory_bytes": "Maximum memory of tensors on a worker's GPU; 0 on a CPU",
}
UPDATE_S = 1.0


@cache
def _gauge(name: str, *tag_keys: str) -> Gauge:
    return Gauge(name, GAUGES[name], tag_keys)


@cache
def _counter(name: str, description: str, *tag_keys: str) -> Counter:
    return Counter(name, description, tag_keys)


def count_decoded(num_windows: int) -> None:
    """Add decoded windows; call it in the process that decoded them."""
    if num_windows:
        _counter("ophnet_decoded_windows", "Windows decoded into the cache").inc(num_windows)


def count_rejects(run: str, rejects: Iterable[Reject]) -> None:
    """Add the rows of a run that are not used, by kind: the text of a reason may name the file."""
    if not ray.is_initialized():
        return
    rejected = _counter("ophnet_rejected_rows", "Rows that are not used", "run", "reason")
    for kind, num_rows in Tally(reject.kind for reject in rejects).items():
        rejected.inc(num_rows, {"run": run, "reason": kind})


class TrainingMetrics:
    """Metrics of one train worker.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._run, self._rank = run, 0
        self._steps, self._since_s = 0, 0.0
        self._scores: dict[str, float] = {}

    def start_epoch(self, rank: int) -> None:
        """Start the clock of the steps; time between epochs does not count."""
        self._rank, self._steps, self._since_s = rank, 0, time.monotonic()

    def end_step(self, batch_size: int, is_last: bool) -> None:
        """Count a step; set the means once per second, since setting them takes time."""
        self._steps += 1
        took_s = time.monotonic() - self._since_s
        if is_last or took_s > UPDATE_S:
            self._show_pace(batch_size, took_s)
            self._steps, self._since_s = 0, time.monotonic()

    def end_epoch(self, record: Mapping[str, float]) -> None:
        """Set the scores of an epoch from its record in ``metrics.jsonl``."""
        names = ("train_loss", "val_loss", "val_acc", "val_macro_f1", "data_wait_share")
        self._scores = {f"ophnet_{name}": record[name] for name in names}
        self._scores["ophnet_epoch"] = record["epoch"] + 1
        self._show(self._scores)

    def _show_pace(self, batch_size: int, took_s: float) -> None:
        import torch  # here, since the processes that decode need none

        on_gpu = torch.cuda.is_available()
        pace = {
            "ophnet_step_seconds": took_s / self._steps,
            "ophnet_samples_per_second": self._steps * batch_size / took_s,
            "ophnet_gpu_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        }
        self._show(self._scores | pace)

    def _show(self, values: Mapping[str, float]) -> None:
        if not ray.is_initialized():
            return
        for name, value in values.items():
            _gauge(name, "run", "rank").set(value, {"run": self._run, "rank": str(self._rank)})
