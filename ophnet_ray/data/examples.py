"""Examples of the training windows: a few of each phase, as the cache holds them."""

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.layouts import LayoutWindows
from ophnet_ray.data.loader import read_window
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.windows import shown_blocks


def read_examples(
    columns: ManifestColumns, num_per_phase: int
) -> dict[str, list[NDArray[np.uint8]]]:
    """Read the middle windows of a few training segments of each phase, of different cases first.

    Returns:
        Pictures, uint8 RGB (S, S, 3), by phase, in the order of the labels; a phase without
        training segments has none.

    Raises:
        OSError: A block cannot be read, or is damaged.
    """
    train = columns.of_split("train")
    windows = LayoutWindows(train.layouts, columns.windows.blocks_per_window)
    examples: dict[str, list[NDArray[np.uint8]]] = {}
    for label, phase in enumerate(columns.phases):
        own = np.flatnonzero(train.labels == label)
        chosen = own[choose_examples(train.cases[own].astype(np.int64), num_per_phase)]
        middle = windows.take(chosen, windows.count_of(chosen) // 2)
        examples[phase] = [
            _read_window(columns, segment, window)
            for segment, window in zip(chosen.tolist(), middle.tolist(), strict=True)
        ]
    return examples


def choose_examples(cases: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Choose up to ``num`` segments: of different cases, if there are as many, evenly spaced.

    Args:
        cases: Number of the case of each segment, (N,).
        num: Largest number of segments.

    Returns:
        Indices of the segments, ascending unless their cases overlap.
    """
    first = np.unique(cases, return_index=True)[1]
    last = len(cases) - 1 - np.unique(cases[::-1], return_index=True)[1]
    of_cases = first[np.argsort(last)]
    candidates = of_cases if len(of_cases) >= num else np.arange(len(cases))
    num = min(num, len(candidates))
    return candidates[np.arange(num) * len(candidates) // max(num, 1)]


def _read_window(columns: ManifestColumns, segment: int, window: list[int]) -> NDArray[np.uint8]:
    settings, (start, length) = columns.windows, window
    picture = np.empty((settings.image_size, settings.image_size, 3), dtype=np.uint8)
    entry = columns.of_split("train").read_entry(segment)
    read_window(entry, *shown_blocks(start, length, settings.window_image), picture)
    return picture
