"""What a piece of work costs: CPU-seconds of the whole process tree, in a process of its own."""

import os
import pickle
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MIN_REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """CPU-seconds of a process and of all that it started, its wall time and its peak memory."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    answer: Any


def measure(work: Callable[[], Any]) -> Cost:
    """Run the work in a fork: what the rivals import is loaded already, and not counted.

    ``work`` may start processes, but must wait for them.
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
        raise RuntimeError("the measured work failed; its error stands above")
    return Cost(
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - started_s,
        usage.ru_maxrss * 1024,
        pickle.loads(content),
    )


def interleave(
    works: Mapping[str, Callable[[], Any]], repeats: int = MIN_REPEATS
) -> dict[str, list[Cost]]:
    """Measure each in turn, several times over: what else the machine does meets all alike."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            costs[name].append(measure(work))
    return costs


def median_cpu_s(costs: list[Cost]) -> float:
    """CPU-seconds."""
    return statistics.median(cost.cpu_s for cost in costs)
