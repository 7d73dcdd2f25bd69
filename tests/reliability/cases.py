"""Cases of the harness by name, with their full sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.reliability import (
    bucket_faults,
    csv_tables,
    feature_files,
    full_disks,
    kill_points,
    kills,
    lost_nodes,
    moments,
    neighbours,
    nodes,
    parquet_files,
    payloads,
    same_name,
    settings_files,
    shuffles,
    small_files,
    templates,
    temporal_kills,
    video_files,
    workers,
)
from tests.reliability.outcome import Outcome


@dataclass(frozen=True)
class Case:
    """A case: ``run(n, seed, folder)``; ``full_n`` inputs are its full size."""

    run: Callable[[int, int, Path], Outcome]
    full_n: int
    is_fuzz: bool = True


CASES: dict[str, Case] = {
    "csv": Case(csv_tables.run, 10_000),
    "yaml": Case(settings_files.run_yaml, 10_000),
    "search": Case(settings_files.run_search, 10_000),
    "flags": Case(settings_files.run_flags, 400),
    "template": Case(templates.run, 10_000),
    "checkpoint": Case(payloads.run_bytes, 10_000),
    "payload": Case(payloads.run_structure, 10_000),
    "parquet": Case(parquet_files.run, 10_000),
    "features": Case(feature_files.run, 10_000, is_fuzz=False),
    "small_files": Case(small_files.run, 6_000, is_fuzz=False),
    "videos": Case(video_files.run, 2_000, is_fuzz=False),
    # whole runs: minutes each
    "kill_worker": Case(kills.run_kill_worker, 20, is_fuzz=False),
    "kill_controller": Case(kills.run_kill_controller, 10, is_fuzz=False),
    "kill_driver": Case(kills.run_kill_driver, 20, is_fuzz=False),
    **{
        name: Case(partial(temporal_kills.run, name), 5, is_fuzz=False)
        for name in temporal_kills.CASES
    },
    **{name: Case(partial(shuffles.run, name), 5, is_fuzz=False) for name in shuffles.KINDS},
    **{name: Case(partial(moments.run, name), 5, is_fuzz=False) for name in moments.KINDS},
    **{name: Case(partial(lost_nodes.run, name), 3, is_fuzz=False) for name in lost_nodes.KINDS},
    "nan": Case(kills.run_nan, 5, is_fuzz=False),
    "nan_batch": Case(kills.run_nan_batch, 5, is_fuzz=False),
    "here": Case(kills.run_here, 12, is_fuzz=False),
    "sigterm": Case(kills.run_sigterm, 10, is_fuzz=False),
    "sigint": Case(kills.run_sigint, 10, is_fuzz=False),
    "sighup": Case(kills.run_sighup, 10, is_fuzz=False),
    "asleep": Case(workers.run_asleep, 3, is_fuzz=False),
    "elastic": Case(nodes.run_elastic, 3, is_fuzz=False),
    "uneven": Case(workers.run_uneven, 3, is_fuzz=False),
    "kill_node": Case(nodes.run_kill_node, 10, is_fuzz=False),
    "kill_head": Case(nodes.run_kill_head, 5, is_fuzz=False),
    "busy": Case(nodes.run_busy, 3, is_fuzz=False),
    "resize": Case(nodes.run_resize, 3, is_fuzz=False),
    "threads": Case(nodes.run_threads, 3, is_fuzz=False),
    "failures": Case(workers.run_failures, 1, is_fuzz=False),
    "preemption": Case(nodes.run_preemption, 10, is_fuzz=False),
    **{name: Case(partial(same_name.run, name), 5, is_fuzz=False) for name in same_name.SETTINGS},
    **{
        name: Case(partial(bucket_faults.run, name), 5, is_fuzz=False)
        for name in bucket_faults.FAULTS
    },
    "neighbour": Case(neighbours.run_neighbour, 5, is_fuzz=False),
    "stranger_csv": Case(neighbours.run_stranger_csv, 5, is_fuzz=False),
    "full_storage": Case(full_disks.run_storage, 3, is_fuzz=False),
    "full_cache": Case(full_disks.run_cache, 3, is_fuzz=False),
    "full_local_copies": Case(full_disks.run_local_copies, 3, is_fuzz=False),
    "full_temporary": Case(full_disks.run_temporary, 3, is_fuzz=False),
    "full_ray_folder": Case(full_disks.run_ray_folder, 3, is_fuzz=False),
    # all calls of each, three faults
    **{
        name: Case(partial(kill_points.run, name), 10_000, is_fuzz=False)
        for name in kill_points.NAMES
    },
}
