"""Counts by case in a checkpoint: whichever takes less room, all of them or those above 0."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ophnet_ray.metrics.cell_counts import CellCounts

_MAX_INT32 = 2**31 - 1


def dump_counts(counts: CellCounts, key: str, dtype: type[np.generic]) -> dict[str, Any]:
    """Return counts as they stand in the file: all of them, or those above 0 if that is smaller.

    Earlier versions know only the former, and take a checkpoint with the latter for one without.
    """
    import torch

    num_all = counts.num_cases * counts.num_classes**2
    value_bytes = np.dtype(dtype).itemsize
    cells = counts.cells.astype(np.int64 if num_all > _MAX_INT32 else np.int32)
    if num_all * value_bytes <= cells.nbytes + len(cells) * value_bytes:
        return {key: torch.from_numpy(counts.to_dense().astype(dtype))}
    values = torch.from_numpy(counts.counts.astype(dtype))
    shape = counts.num_cases, counts.num_classes
    return {f"{key}_cells": [*shape, torch.from_numpy(cells), values]}


def read_counts(values: Mapping[str, Any], key: str, dtype: type[np.generic]) -> CellCounts | None:
    """Read what ``dump_counts`` wrote.

    Raises:
        AttributeError, IndexError, TypeError, ValueError: The counts are damaged.
    """
    if (dense := values.get(key)) is not None:
        return CellCounts.of_dense(dense.numpy().astype(dtype))
    if (sparse := values.get(f"{key}_cells")) is None:
        return None
    num_cases, num_classes, cells, counts = sparse
    return CellCounts(
        num_cases=num_cases,
        num_classes=num_classes,
        cells=cells.numpy().astype(np.int64),
        counts=counts.numpy().astype(dtype),
    )
