"""Examples of the training windows: a few of each phase, as the cache holds them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.loader import read_window
from ophnet_ray.data.manifest import Manifest, ManifestItem
from ophnet_ray.data.windows import cut_windows, shown_blocks


def read_examples(manifest: Manifest, num_per_phase: int) -> dict[str, list[NDArray[np.uint8]]]:
    """Read the middle windows of a few training segments of each phase, of different cases first.

    Returns:
        Pictures, uint8 RGB (S, S, 3), by phase, in the order of the labels; a phase without
        training segments has none.

    Raises:
        OSError: A block cannot be read, or is damaged.
    """
    items = manifest.of_split("train")
    of_phases = [[item for item in items if item.label == i] for i in range(len(manifest.phases))]
    return {
        phase: [_read_middle(item, manifest) for item in choose_examples(own, num_per_phase)]
        for phase, own in zip(manifest.phases, of_phases, strict=True)
    }


def choose_examples(items: Sequence[ManifestItem], num: int) -> list[ManifestItem]:
    """Choose up to ``num`` segments: of different cases, if there are as many, evenly spaced."""
    of_cases = list({item.segment.case_id: item for item in reversed(items)}.values())[::-1]
    candidates = of_cases if len(of_cases) >= num else items
    num = min(num, len(candidates))
    return [candidates[i * len(candidates) // num] for i in range(num)]


def _read_middle(item: ManifestItem, manifest: Manifest) -> NDArray[np.uint8]:
    settings = manifest.windows
    windows = cut_windows(item.entry.snippet_lengths, settings.blocks_per_window)
    start, length = windows[len(windows) // 2].tolist()
    picture = np.empty((settings.image_size, settings.image_size, 3), dtype=np.uint8)
    read_window(item, *shown_blocks(start, length, settings.window_image), picture)
    return picture
