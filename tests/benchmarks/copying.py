"""Cost of one more copy in a folder that already holds many copies of a bucket's objects."""

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ophnet_ray.storage.copy_folder import copies_in
from ophnet_ray.storage.files import write_object
from ophnet_ray.storage.paths import join
from tests.benchmarks.table import Figure
from tests.helpers.bucket import running_bucket

NUM_FILES = (100, 6_250)
"""Files in the folder, two per shard: an object and its index."""
NUM_FETCHES, NUM_AHEAD = 60, 20
SHARD, INDEX = bytes(10_000), bytes(500)


class _Uses:
    """Uses of the shards of an epoch: half of the old ones are read after the new ones."""

    def __init__(self, later: Iterable[str]) -> None:
        self.steps = {name: 1_000.0 + i for i, name in enumerate(later)}

    def next_use(self, name: str) -> float:
        """Return the steps until the next use of a shard."""
        return self.steps.get(name, float("inf"))

    def lose(self, name: str) -> None:
        """Do nothing: what is lost is not fetched again here."""


def measure_fetches(folder: Path, uri: str, num_files: int) -> tuple[float, float]:
    """Fetch shards ahead into a folder at its limit; each takes the room of an old one.

    Returns:
        CPU-milliseconds of this process per fetch, median and mean.
    """
    num_old = num_files // 2
    old = [f"old{i:05}.arrow" for i in range(num_old)]
    for i, name in enumerate(old):
        for each, content in ((name, SHARD), (f"{name[:-6]}.json", INDEX)):
            (folder / each).write_bytes(content)
        if num_old // 2 <= i < num_old // 2 + 2 * NUM_FETCHES:
            write_object(join(uri, name), SHARD)
    copies = copies_in(folder)
    uses = _Uses(old[: num_old // 2])
    copies.begin(uses)
    copies.max_bytes = sum(file.stat().st_size for file in folder.iterdir()) + 4_096
    for name in old[: num_old // 2]:
        copies.pin(name)
    costs_ms = []
    for i in range(NUM_FETCHES):
        name = f"new{i:03}.arrow"
        uses.steps[name] = NUM_AHEAD
        started_s = time.process_time()
        copies.fetch(join(uri, name), join(uri, f"new{i:03}.json"), before=NUM_AHEAD)
        copies.pin(name)
        if i >= NUM_AHEAD:
            done = f"new{i - NUM_AHEAD:03}.arrow"
            del uses.steps[done]
            copies.unpin(done)
        costs_ms.append((time.process_time() - started_s) * 1e3)
    copies.end(uses)
    return float(np.median(costs_ms)), float(np.mean(costs_ms))


def compare_copying(folder: Path) -> list[Figure]:
    """Compare the cost of a fetch by the number of files that are already there."""
    scratch = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-", dir=folder))
    costs = {}
    try:
        with running_bucket(is_quiet=True) as bucket:
            for num_files in NUM_FILES:
                machine = scratch / str(num_files)
                machine.mkdir()
                uri = bucket.uri(f"copies-{num_files}")
                for i in range(NUM_FETCHES):
                    write_object(join(uri, f"new{i:03}.arrow"), SHARD)
                    write_object(join(uri, f"new{i:03}.json"), INDEX)
                costs[num_files] = measure_fetches(machine, uri, num_files)
    finally:
        shutil.rmtree(scratch)
    few, many = (costs[num_files][1] for num_files in NUM_FILES)
    return [
        *(
            Figure(f"CPU-ms per fetch, {num_files} files", mean, f"median {median:.2f}")
            for num_files, (median, mean) in costs.items()
        ),
        Figure(f"{NUM_FILES[1]} files / {NUM_FILES[0]} files", many / few, "", "<= 2"),
    ]
