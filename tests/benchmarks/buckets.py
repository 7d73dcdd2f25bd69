"""Cache in a bucket: whole shards fetched once, against one range read per window."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import boto3

from ophnet_ray.data.manifest import Manifest
from ophnet_ray.storage.files import upload
from ophnet_ray.storage.filesystems import filesystem_of
from ophnet_ray.storage.paths import bucket_path, join
from tests.benchmarks.reading import BLOCK_BYTES, BLOCKS, product_loader, write_cache
from tests.benchmarks.table import Figure

NUM_SEGMENTS, NUM_EPOCHS, RANGE_THREADS = 260, 10, 8
LATENCY_MS = 30
"""Delay of each response; S3 takes about this long to its first byte."""


def compare_buckets(folder: Path) -> list[Figure]:
    """Measure bytes, requests and time of ten epochs."""
    scratch = Path(tempfile.mkdtemp(prefix="ophnet-benchmark-", dir=folder))
    try:
        with _endpoint() as (uri, query):
            manifest = _share(write_cache(scratch, NUM_SEGMENTS), uri, scratch / "machine")
            query(f"delay?ms={LATENCY_MS}")
            query("count")
            ranges = [_measure(lambda: _read_epoch_by_ranges(manifest)) for _ in range(3)]
            range_counts = query("count")
            fetch = _measure(lambda: _read_epoch_locally(manifest))
            local_counts = query("count")
            epochs = [
                _measure(lambda: _read_epoch_locally(manifest)) for _ in range(NUM_EPOCHS - 1)
            ]
    finally:
        shutil.rmtree(scratch)
    return _figures(ranges, range_counts, fetch, local_counts, epochs)


def _figures(
    ranges: list[tuple[float, float]],
    range_counts: dict[str, int],
    fetch: tuple[float, float],
    local_counts: dict[str, int],
    epochs: list[tuple[float, float]],
) -> list[Figure]:
    cache_bytes = NUM_SEGMENTS * BLOCKS * BLOCK_BYTES
    range_s, range_cpu_s = (sorted(column)[1] for column in zip(*ranges, strict=True))
    local_s, local_cpu_s = (sorted(column)[NUM_EPOCHS // 2] for column in zip(*epochs, strict=True))
    windows = NUM_SEGMENTS // 32 * 32
    range_bytes = range_counts["sent_bytes"] / len(ranges)
    return [
        Figure("fetching: bytes / bytes of the cache", local_counts["sent_bytes"] / cache_bytes,
               f"{local_counts['requests']} requests, {fetch[0]:.1f} s", "<= 1.2"),
        Figure("fetching in ten epochs: seconds", fetch[0] + (NUM_EPOCHS - 1) * local_s),
        Figure("range reads, ten epochs: seconds", NUM_EPOCHS * range_s,
               f"{RANGE_THREADS} threads, {LATENCY_MS} ms to the first byte"),
        Figure("range reads, ten epochs: bytes / bytes of the cache",
               NUM_EPOCHS * range_bytes / cache_bytes,
               f"{range_counts['requests'] // len(ranges)} requests per epoch"),
        Figure("local shards: windows/s per core", windows / local_cpu_s),
        Figure("range reads: windows/s per core", windows / range_cpu_s, "client only"),
        Figure("range reads: windows/s", windows / range_s, "an H100 needs 500"),
    ]  # fmt: skip


@contextmanager
def _endpoint() -> Iterator[tuple[str, Callable[[str], dict[str, int]]]]:
    """Serve a bucket on loopback; yield its URI and a function that queries its counters."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    script = Path(__file__).parents[1] / "helpers" / "bucket_server.py"
    server = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if server.stdout is None:
        raise RuntimeError("the bucket server prints no port")
    endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"

    def query(question: str) -> dict[str, int]:
        with urlopen(f"{endpoint}/_test/{question}", timeout=10) as answer:
            counts: dict[str, int] = json.load(answer)
            return counts

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="bench")
    try:
        yield f"s3://bench/cache?endpoint_override={quote(endpoint, safe='')}", query
    finally:
        server.communicate()


def _share(manifest: Manifest, uri: str, machine: Path) -> Manifest:
    """Move the shards to the bucket; return the manifest of a machine that has fetched none."""
    for path in {item.entry.path for item in manifest.items}:
        for file in (Path(path), Path(path).with_suffix(".json")):
            upload(file, join(uri, file.name))
            file.unlink()
    items = []
    for item in manifest.items:
        name = Path(item.entry.path).name
        entry = replace(item.entry, path=str(machine / name), source=join(uri, name))
        items.append(replace(item, entry=entry))
    return replace(manifest, items=tuple(items))


def _read_epoch_locally(manifest: Manifest) -> None:
    for _ in product_loader(manifest, 0, 1):
        pass


def _read_epoch_by_ranges(manifest: Manifest) -> None:
    """Read the same windows in the same order, each by one request for its two blocks."""
    system = filesystem_of(manifest.items[0].entry.source)
    sources = {item.entry.source for item in manifest.items}
    files = {source: system.open_input_file(bucket_path(source)) for source in sources}

    def read(window: list[int]) -> None:
        segment, first, count = window
        entry = manifest.items[segment].entry
        size_bytes = count * BLOCK_BYTES
        data = files[entry.source].read_at(size_bytes, entry.offset + first * BLOCK_BYTES)
        if len(data) != size_bytes:
            raise RuntimeError("short read")

    windows = [w for step in product_loader(manifest, 0, 1).sampler.steps(0) for w in step.windows]
    with ThreadPoolExecutor(RANGE_THREADS) as pool:
        list(pool.map(read, [w.tolist() for w in windows]))


def _measure(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU-seconds of this process."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s
