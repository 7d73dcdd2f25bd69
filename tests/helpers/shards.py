"""Shards of noise in a bucket, as the manifest of a machine that has fetched none of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.sampling_config import SamplingConfig
from ophnet_ray.storage.files import upload
from ophnet_ray.storage.paths import join

WINDOWS = WindowConfig(image_size=32)
PER_SHARD, NUM_BLOCKS = 4, 8
SHARD_BYTES = 103_000
"""Size of a shard with its index, at most."""


def write_shards(folder: Path, uri: str, num_shards: int, per_shard: int = PER_SHARD) -> Manifest:
    """Write shards of a few segments each, of one case, and move them to a bucket."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for shard in range(num_shards):
        blocks = [rng.integers(0, 256, (NUM_BLOCKS, 32, 32, 3), np.uint8) for _ in range(per_shard)]
        rows = [
            DecodedSegment(f"{shard:016x}{i:016x}", "v", SegmentBlocks(tuple(each), (4, 4)))
            for i, each in enumerate(blocks)
        ]
        for i, entry in enumerate(write_shard(folder, rows, WINDOWS)):
            name = Path(entry.path).name
            segment = Segment(f"s{shard}:{i}", f"c{shard}", "v", i, i + 1, "a", "train")
            items.append(ManifestItem(segment, 0, replace(entry, source=join(uri, name))))
        for file in (Path(entry.path), Path(entry.path).with_suffix(".json")):
            upload(file, join(uri, file.name))
            file.unlink()
    return Manifest(("a",), WINDOWS, tuple(items))


def move_to(manifest: Manifest, machine: Path) -> Manifest:
    """Return the manifest of another machine, whose copies lie in a folder of its own."""
    items = []
    for item in manifest.items:
        path = str(machine / Path(item.entry.path).name)
        items.append(replace(item, entry=replace(item.entry, path=path)))
    return replace(manifest, items=tuple(items))


class Node(ManifestDataModule):
    """Data of the only worker of a node, without a trainer."""

    def __init__(
        self, manifest: Manifest, rank: int = 0, num_nodes: int = 1, **sampling: str | int
    ) -> None:
        super().__init__(manifest, 4, 7, sampling=SamplingConfig(**sampling))  # type: ignore[arg-type]
        self._own = rank, num_nodes

    @property
    def _rank(self) -> int:
        return self._own[0]

    @property
    def _num_replicas(self) -> int:
        return self._own[1]

    def read(self, max_bytes: int | None, epoch: int = 0) -> Iterator[np.ndarray]:
        """Yield the pixels of an epoch's batches."""
        self._columns.limit_copies(max_bytes)
        loader: WindowLoader = self.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            yield batch["pixels"].numpy()
