"""Runs under ``--shuffle shard``, killed in the middle of an epoch: they end alike.

The cache is a folder or a bucket of which the machine may keep a part; the sampler is the default
one or another. It is full when the runs start. One worker trains in the process of the command,
without Ray; two are workers of Ray Train, of which one is killed, or the command with all of them.
"""

import random
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from tests.helpers.bucket import running_bucket
from tests.helpers.runs import tiny_config
from tests.helpers.videos import write_color_dataset
from tests.reliability.kills import judge, judged, kill_worker, striking, windows_by_epoch
from tests.reliability.outcome import Outcome
from tests.reliability.place import EPOCHS, STEPS, WORKERS, Place, finish

LIMIT = "600kB"
"""Room for two of six shards."""
NUM_SEGMENTS = 15
"""Training segments; each has one window per epoch under the default sampler."""


@dataclass(frozen=True)
class _Kind:
    """Runs of one case.

    Attributes:
        is_in_bucket: The cache is in a bucket, and copies of a part of it are on the machine.
        sampler: See ``SamplingConfig``.
        train_workers: Workers of Ray Train; None for one in the process of the command.
        kills_worker: A worker is killed, and Ray Train starts the workers again; else the command
            is killed, and given again.
    """

    is_in_bucket: bool
    sampler: str = "segment"
    train_workers: int | None = None
    kills_worker: bool = False

    @property
    def steps(self) -> int:
        """Steps of an epoch under the default sampler."""
        return NUM_SEGMENTS if self.train_workers is None else STEPS

    @property
    def windows(self) -> int:
        """Windows of an epoch: workers take the same number of steps, so the rest is left out."""
        return self.steps * (self.train_workers or 1)


KINDS = {
    "shard_order": _Kind(is_in_bucket=False),
    "shard_order_bucket_seconds": _Kind(is_in_bucket=True, sampler="seconds"),
    "shard_order_workers": _Kind(is_in_bucket=True, train_workers=WORKERS, kills_worker=True),
    "shard_order_workers_driver": _Kind(is_in_bucket=True, train_workers=WORKERS),
}


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 a process of a run inside an epoch ``n`` times."""
    kind, outcome = KINDS[name], Outcome()
    strike = kill_worker if kind.kills_worker else striking(signal.SIGKILL, -signal.SIGKILL)
    with running_bucket(is_quiet=True) if kind.is_in_bucket else nullcontext() as bucket:
        cache_dir = bucket.uri("cache") if bucket is not None else str(folder / "data" / "cache")
        _fill(folder, cache_dir)
        settings = {
            "cache_dir": cache_dir,
            "shuffle": "shard",
            "shuffle_shards": 2,
            "sampler": kind.sampler,
        }
        whole = _place(folder, "whole", kind, settings)
        finish(whole.start())
        wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
        _check_windows(windows, kind)
        for number in range(n):
            rng = random.Random(f"{name}:{seed}:{number}")
            step = rng.randrange((EPOCHS - 1) * kind.steps)
            rank = rng.randrange(kind.train_workers or 1)
            place = _place(folder, str(number), kind, settings)
            with judged(outcome, place, (rank, step)):
                strike(place, rank, step)
                judge(place, wanted, windows)
    return outcome


def _fill(folder: Path, cache_dir: str) -> None:
    """Decode the videos into the cache, in this process, on a machine of its own."""
    data = folder / "data"
    rows = read_annotations(write_color_dataset(data), data)
    windows = tiny_config(data / "segments.csv", folder, image_size=64).windows
    cache = BlockCache(cache_dir, windows, str(folder / "decoder"))
    fill_cache(cache, rows, 4, decode_in_threads(1))
    num_shards = len(np.unique(cache.look_up(rows)[1].shards))
    if num_shards < 4:
        raise RuntimeError(f"{num_shards} shards have no order")


def _place(folder: Path, name: str, kind: _Kind, settings: Mapping[str, Any]) -> Place:
    """Return the place of a run; of a cache in a bucket, its machine keeps only a part."""
    own = {"local_cache_dir": str(folder / name / "copies"), "local_cache_bytes": LIMIT}
    return Place(
        folder / name,
        folder / "data",
        kind.train_workers,
        {**settings, **(own if kind.is_in_bucket else {})},
    )


def _check_windows(windows: Mapping[int, Counter[str]], kind: _Kind) -> None:
    """Make sure that the run that was not killed has each window once per epoch, if it should."""
    for epoch, counts in windows.items():
        if counts.total() != kind.windows:
            raise RuntimeError(f"epoch {epoch} has {counts.total()} windows")
        if kind.sampler == "segment" and max(counts.values()) > 1:
            raise RuntimeError(f"epoch {epoch} has a window twice")
