"""A manifest as columns, by split: what train workers read."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.layouts import shrink
from ophnet_ray.data.manifest import Manifest, divide_windows
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.sampling_config import SamplerKind
from ophnet_ray.storage.copy_folder import copies_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ManifestColumns:
    """Usable segments of a run; ``phases[label]`` is the phase's id or name in the CSV."""

    phases: tuple[str, ...]
    windows: WindowConfig
    splits: Mapping[str, SegmentColumns]

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Self:
        """Turn rows into columns; those of a split keep their order."""
        in_rows = manifest.rows.segments.splits
        # in the order of their first rows, as earlier versions wrote them: the same file to the bit
        first_row = {name: int(np.argmax(in_rows.equal(name))) for name in in_rows.list_present()}
        names = sorted(first_row, key=first_row.__getitem__)
        splits = {name: SegmentColumns.of_items(manifest.of_split(name)) for name in names}
        if manifest.val_durations is not None:
            splits["val"] = replace(splits["val"], durations=shrink(manifest.val_durations))
        return cls(manifest.phases, manifest.windows, splits)

    def of_split(self, split: str) -> SegmentColumns:
        """Return the segments of a split, in the CSV's order."""
        return self.splits.get(split, self._none)

    @cached_property
    def _none(self) -> SegmentColumns:
        return SegmentColumns.of_items(())

    def count(self, split: str) -> int:
        """Return the number of segments of a split."""
        return len(self.of_split(split))

    def count_cases(self, split: str) -> int:
        """Return the number of cases of a split."""
        return len(self.of_split(split).case_names)

    def cases_of(self, split: str) -> list[str]:
        """Return the cases of a split, sorted."""
        cases: list[str] = self.of_split(split).case_names.to_pylist()
        return cases

    def limit_copies(
        self, max_bytes: int | None, tell: Callable[[str], None] = logger.warning
    ) -> None:
        """Limit the copies of shards in this machine's folders; see ``CopyFolder``."""
        folders = {folder for split in self.splits.values() for folder in split.folders}
        for path, uri in folders:
            if uri:
                copies = copies_in(path)
                copies.max_bytes, copies.tell = max_bytes, tell

    def training_counts(self, sampler: SamplerKind) -> NDArray[np.int64]:
        """Return ``divide_windows`` of the training segments, (K,)."""
        train = self.of_split("train")
        return divide_windows(train.labels, train.lengths, len(self.phases), sampler)
