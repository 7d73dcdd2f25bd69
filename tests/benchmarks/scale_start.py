"""Cost of the start of a run over a full cache, from the CSV to the file that train workers map.

Every stage that the driver passes is the product's own. Each start has a process of its own, which
prints its costs as JSON.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.run_data import read_run_data
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.quick_import import quick_import
from ophnet_ray.train.run import open_run
from ophnet_ray.train.stages import prepare_data
from ophnet_ray.train.stored_manifest import store_manifest
from tests.benchmarks.measure import read_peak_mb

NAME = "start"
_RESOURCES = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)


def measure_start(csv_path: Path, cache_dir: Path, runs: Path) -> dict[str, float]:
    """Start a new run on a table whose segments the cache holds; it trains nothing."""
    shutil.rmtree(runs / NAME, ignore_errors=True)
    config = Config().replace_flat(
        csv_path=str(csv_path),
        video_dir=str(csv_path.parent),
        cache_dir=str(cache_dir),
        storage_path=str(runs),
        name=NAME,
    )
    with quick_import():
        import timm  # noqa: F401 - a driver has it loaded by the time it prepares the data
    # all that this process has done so far
    costs = {"imports: CPU-s": time.process_time()}
    base_mb = read_peak_mb()
    console = Console()
    with _clock(costs, "the table"):
        data = read_run_data(str(csv_path), config.data, config.training.seed, console.say)
    with _clock(costs, "the run's folder"):
        run = open_run(config, data, console)
    cache = run.open_cache()
    with cache.in_use(), _clock(costs, "the cache and the account of the rows"):
        manifest = prepare_data(run, cache, _RESOURCES)
    with _clock(costs, "the file"):
        store_manifest(manifest, run.directory.manifest)
    costs["in all, with imports: CPU-s"] = sum(costs.values())
    costs["in all: CPU-s"] = costs["in all, with imports: CPU-s"] - costs["imports: CPU-s"]
    costs["peak: MB"] = read_peak_mb()
    costs["peak above imports: MB"] = costs["peak: MB"] - base_mb
    return costs


@contextmanager
def _clock(costs: dict[str, float], name: str) -> Iterator[None]:
    started_s = time.process_time()
    yield
    costs[f"{name}: CPU-s"] = time.process_time() - started_s
    print(name, costs[f"{name}: CPU-s"], read_peak_mb(), file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(measure_start(*map(Path, sys.argv[1:]))))
