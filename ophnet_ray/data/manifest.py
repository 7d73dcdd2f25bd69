"""Usable segments and the position of their blocks, row by row."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.annotations import require_videos
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.shards import UNRECORDED_KIND
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.manifest_rows import ManifestItem, ManifestRows
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Reject, Segment
from ophnet_ray.errors import UserError
from ophnet_ray.sampling_config import SamplerKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Everything that reading windows needs: no video, no CSV, no codec.

    Workers read the same from columns, see ``manifest_columns``.

    ``phases[label]`` is the phase's id or name in the CSV. ``train_video_hashes``: content ids of
    the training videos, sorted; None where they were not read. ``val_durations``: see
    ``measure_durations``, of the validation segments; None where no score asks for them.
    """

    phases: tuple[str, ...]
    windows: WindowConfig
    items: Sequence[ManifestItem]
    train_video_hashes: tuple[str, ...] | None = None
    val_durations: NDArray[np.int64] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Turn items into columns."""
        object.__setattr__(self, "items", ManifestRows.of_items(self.items))

    @property
    def rows(self) -> ManifestRows:
        """The items as columns."""
        return cast("ManifestRows", self.items)

    def of_split(self, split: str) -> ManifestRows:
        """Return the segments of a split, in the CSV's order."""
        return self.rows.of_split(split)

    def count(self, split: str) -> int:
        """Return the number of segments of a split."""
        return int(np.count_nonzero(self.rows.segments.splits.equal(split)))

    def cases_of(self, split: str) -> list[str]:
        """Return the cases of a split, sorted."""
        return sorted(self.of_split(split).segments.cases.list_present())

    def label_counts(self, split: str) -> NDArray[np.int64]:
        """Count the segments of each phase, (K,)."""
        return np.bincount(self.of_split(split).labels, minlength=len(self.phases))

    def training_counts(self, sampler: SamplerKind) -> NDArray[np.int64]:
        """Return ``divide_windows`` of the training segments, (K,)."""
        train = self.of_split("train")
        return divide_windows(train.labels, train.measure_lengths(), len(self.phases), sampler)


def divide_windows(
    labels: NDArray[np.integer[Any]],
    lengths: NDArray[np.integer[Any]],
    num_phases: int,
    sampler: SamplerKind,
) -> NDArray[np.int64]:
    """Divide training segments among the phases as a sampler divides its windows.

    Args:
        labels: Label of each segment, (N,).
        lengths: See ``ManifestRows.measure_lengths``, (N,).
        num_phases: Number of phases, K.
        sampler: See ``SamplingConfig``.

    Returns:
        Segments of each phase, (K,); at least 1 for a phase that has any.
    """
    counts = np.bincount(labels, minlength=num_phases)
    if sampler == "segment":
        return counts
    if sampler == "balanced":
        shares = counts > 0
    else:
        shares = np.zeros_like(counts)
        np.add.at(shares, labels, lengths.astype(np.int64))
    expected: NDArray[np.float64] = np.rint(counts.sum() * shares / shares.sum())
    return np.maximum(expected.astype(np.int64), counts > 0)


def build_manifest(
    segments: Sequence[Segment],
    entries: CacheEntries,
    phases: Sequence[str],
    windows: WindowConfig,
) -> tuple[Manifest, list[Reject]]:
    """Join segments with their cache entries; nothing is decoded.

    Args:
        segments: With their splits.
        entries: That of each segment, in their order.
        phases: The vocabulary.
        windows: Settings under which the cache was filled.

    Returns:
        The usable segments and the rejected ones; every row is in one of the two.

    Raises:
        KeyError: A phase is not in the vocabulary.
    """
    table, is_reject = as_table(segments), entries.are_set("kind")
    unreadable, usable = np.flatnonzero(is_reject), np.flatnonzero(~is_reject)
    rejects = [
        Reject(segment, entry.reason, entry.kind or UNRECORDED_KIND)
        for segment, entry in zip(table.take(unreadable), entries.take(unreadable), strict=True)
    ]
    kept = table.take(usable)
    label_of = {phase: label for label, phase in enumerate(phases)}
    rows = ManifestRows(kept, kept.phases.look_up(label_of), entries.take(usable))
    return Manifest(tuple(phases), windows, rows), rejects


def prepare_manifest(
    segments: Sequence[Segment],
    phases: Sequence[str],
    windows: WindowConfig,
    cache_dir: str | Path,
    num_workers: int,
) -> tuple[Manifest, list[Reject]]:
    """Decode in this process what the cache lacks, then build the manifest; rejects are logged.

    Args:
        segments: With their splits.
        phases: The vocabulary.
        windows: Windows to decode for.
        cache_dir: Folder of the cache.
        num_workers: Parallel decode threads.

    Raises:
        UserError: A setting of the windows is wrong, a video is missing, a phase is not in the
            vocabulary, or nothing can be read.
    """
    Config(windows=windows).validate()
    require_videos(segments)
    unknown = {segment.phase for segment in segments} - set(phases)
    if unknown:
        raise UserError(f"phases without a label in phase2idx: {', '.join(sorted(unknown))}")
    cache = BlockCache(cache_dir, windows)
    filled = fill_cache(cache, segments, num_workers, decode_in_threads(num_workers))
    manifest, rejects = build_manifest(segments, filled.entries, phases, windows)
    for reject in rejects:
        logger.warning("%s is left out: %s", reject.segment.segment_id, reject.reason)
    if not manifest.items:
        raise UserError(f"no segment can be read; the first: {rejects[0].reason}")
    return manifest, rejects
