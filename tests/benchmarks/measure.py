"""Cost of a function, run in a fork: CPU-seconds of the whole process tree."""

import os
import pickle
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIN_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """CPU-seconds of a process and its descendants, wall time, peak memory and return value."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    answer: Any


def read_peak_mb() -> float:
    """Return the peak memory of this process; that of the one that started it does not count."""
    (line,) = (
        text
        for text in Path("/proc/self/status").read_text().splitlines()
        if text.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1024 / 1e6


def measure(work: Callable[[], Any]) -> Cost:
    """Call ``work`` in a fork: the imports of this process are loaded and not measured.

    ``work`` may start processes but must wait for them.
    """
    reader, writer = os.pipe()
    started_s = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(work(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError("the measured work failed; see its error above")
    return Cost(
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - started_s,
        usage.ru_maxrss * 1024,
        pickle.loads(content),
    )


def interleave(
    works: Mapping[str, Callable[[], Any]], repeats: int = MIN_REPEATS
) -> dict[str, list[Cost]]:
    """Measure all works in turn, ``repeats`` times, so that other load affects all equally."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            costs[name].append(measure(work))
    return costs


def median_cpu_s(costs: list[Cost]) -> float:
    """Return the median of the CPU-seconds."""
    return statistics.median(cost.cpu_s for cost in costs)
