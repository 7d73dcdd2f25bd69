"""Segments and where their blocks lie: the small thing that travels, pixels are fetched last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Reject, Segment
from ophnet_ray.data.cache.shards import CacheEntry


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """A usable segment: its label (index of its phase) and its blocks."""

    segment: Segment
    label: int
    entry: CacheEntry


@dataclass(frozen=True)
class Manifest:
    """All that is needed to read windows: no video, no CSV, no codec.

    ``phases[label]`` is the phase's id or name in the CSV.
    """

    phases: tuple[str, ...]
    windows: WindowConfig
    items: tuple[ManifestItem, ...]

    def of_split(self, split: str) -> list[ManifestItem]:
        """The segments of a split, in the CSV's order."""
        return [item for item in self.items if item.segment.split == split]

    def cases_of(self, split: str) -> list[str]:
        """The cases of a split, sorted."""
        return sorted({item.segment.case_id for item in self.of_split(split)})

    def label_counts(self, split: str) -> NDArray[np.int64]:
        """Segments of each phase, (K,)."""
        labels = [item.label for item in self.of_split(split)]
        return np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(self.phases))


def build_manifest(
    segments: Sequence[Segment],
    entries: Mapping[str, CacheEntry],
    phases: Sequence[str],
    windows: WindowConfig,
) -> tuple[Manifest, list[Reject]]:
    """Join segments with their cache entries.

    Args:
        segments: With their splits.
        entries: By segment id, one for each.
        phases: The vocabulary.
        windows: As the cache was filled.

    Returns:
        The usable segments and the rejected ones; every row is in one of the two.
    """
    label_of = {phase: label for label, phase in enumerate(phases)}
    items, rejects = [], []
    for segment in segments:
        entry = entries[segment.segment_id]
        if entry.kind is not None:
            rejects.append(Reject(segment, entry.reason, entry.kind))
        else:
            items.append(ManifestItem(segment, label_of[segment.phase], entry))
    return Manifest(tuple(phases), windows, tuple(items)), rejects
