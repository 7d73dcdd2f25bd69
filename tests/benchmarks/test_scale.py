"""The part `scale` of the benchmarks runs: it measures private parts, which get other names."""

import pytest

from tests.benchmarks.scale import time_driver, time_worker

pytestmark = pytest.mark.unit


def test_a_table_as_large_as_ophnet_costs_its_workers_few_bytes_per_segment(tmp_path):
    driver = time_driver(tmp_path, 1)
    assert 0 < driver["the manifest: bytes per segment"] <= 64
    assert driver["sent to a worker: bytes"] < 1_000
    worker = time_worker(tmp_path, driver["stored"])
    assert worker["the windows of the first step: CPU-s"] > 0
