"""Findings of the set-up: settings, space on disk, and what preparing the data will cost."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import cpu_count

from ophnet_ray.config import Config
from ophnet_ray.data.cache.shards import bytes_per_block
from ophnet_ray.data.cache.store import CACHE_VERSION, BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inspection.findings import Finding, FindingKind
from ophnet_ray.inspection.video_facts import VideoFacts
from ophnet_ray.storage.disk_space import Need, find_shortages, nearest_folder
from ophnet_ray.storage.paths import is_remote


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost of preparing the rows of training and validation.

    ``cache_bytes``: size of all blocks; ``missing_bytes``: of those that the cache lacks;
    ``free_bytes``: on the disk of the cache; ``decode_s``: CPU seconds to decode them;
    ``missing_decode_s``: those of the videos that the cache lacks; ``workers``: decoding in
    parallel.
    """

    cache_bytes: int
    missing_bytes: int
    free_bytes: int
    decode_s: float
    missing_decode_s: float
    workers: int

    @property
    def decode_hours(self) -> float:
        """Hours that decoding takes with these workers."""
        return self.missing_decode_s / self.workers / 3600


def collect(kind: FindingKind, subject: str, check: Callable[[], object]) -> list[Finding]:
    """Run a check that refuses wrong input; return what it refuses as findings."""
    try:
        check()
    except UserError as error:
        return describe_error(kind, subject, error)
    return []


def describe_error(kind: FindingKind, subject: str, error: UserError) -> list[Finding]:
    """Return a finding for each line of an error; what follows its last semicolon is the cure."""
    findings = []
    for line in str(error).splitlines():
        text, _, cure = line.rpartition("; ")
        findings.append(Finding(kind, "error", subject, text or line, cure if text else "mend it"))
    return findings


def estimate_costs(
    config: Config, facts: Sequence[VideoFacts], rows: Mapping[str, Sequence[Segment]]
) -> Costs:
    """Estimate what decoding takes in bytes and CPU seconds.

    Args:
        config: Settings with absolute paths.
        facts: Facts of all videos.
        rows: Rows by video, in the order of the facts' rows.
    """
    block_bytes = bytes_per_block(config.windows)
    blocks = {
        row.segment_id: fact.num_blocks
        for each in facts
        for row, fact in zip(rows[each.video], each.rows, strict=False)
        if row.split != "test"
    }
    readable = [
        row for each in facts for row in rows[each.video] if each.stream and row.split != "test"
    ]
    cached = _find_cached(config, readable)
    lacking = {row.video for row in readable if row.segment_id not in cached}
    folder = _disk_of_cache(config)
    return Costs(
        cache_bytes=block_bytes * sum(blocks.values()),
        missing_bytes=block_bytes * sum(n for row, n in blocks.items() if row not in cached),
        free_bytes=shutil.disk_usage(folder).free,
        decode_s=sum(each.decode_s for each in facts),
        missing_decode_s=sum(each.decode_s for each in facts if each.video in lacking),
        workers=min(config.run.num_workers or cpu_count(), cpu_count()),
    )


def check_disk(config: Config, costs: Costs) -> Iterator[Finding]:
    """Yield an error if the decoded windows do not fit on the disk of the cache."""
    need = Need("decoded windows", _disk_of_cache(config), costs.missing_bytes)
    for shortage in find_shortages([need]):
        yield Finding(
            "disk",
            "error",
            "--cache_dir",
            str(shortage),
            "another --cache_dir, a smaller --max_frames or --image_size, or `python -m ophnet_ray "
            "cache --prune`",
        )


def _disk_of_cache(config: Config) -> Path:
    """Return the nearest folder that exists above the cache of this machine."""
    cache = config.run.cache_dir or ""
    return nearest_folder(Path(config.run.local_cache_dir or "." if is_remote(cache) else cache))


def _find_cached(config: Config, rows: Sequence[Segment]) -> set[str]:
    """Return the ids of the rows that the cache holds; a bucket is not asked."""
    cache_dir = config.run.cache_dir or ""
    if is_remote(cache_dir) or not (Path(cache_dir) / CACHE_VERSION).is_dir() or not rows:
        return set()
    cache = BlockCache(cache_dir, config.windows)
    _, found = cache.look_up(rows)
    return {rows[row].segment_id for row in np.flatnonzero(found.is_there).tolist()}
