"""Segments as a torch ``Dataset`` and as a ``LightningDataModule``, over the cache, without Ray."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ophnet_ray.config import (
    DEFAULT_CACHE_DIR,
    Config,
    Coverage,
    DataConfig,
    MaskKind,
    RunConfig,
    TrainingConfig,
    WindowConfig,
)
from ophnet_ray.data.annotations import (
    Reject,
    Segment,
    find_missing_videos,
    parse_annotations,
    phase_vocabulary,
    read_annotations,
)
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.loader import WindowLoader, read_window
from ophnet_ray.data.manifest import Manifest, ManifestItem, build_manifest
from ophnet_ray.data.preprocessing import one_hot, prepare_batch, to_unit
from ophnet_ray.data.samplers import TrainingSampler, ValidationSampler
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.data.windows import cut_windows
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_ids

_WINDOWS, _TRAINING = WindowConfig(), TrainingConfig()

logger = logging.getLogger(__name__)


class OphNetSurgicalDataset(Dataset[dict[str, Tensor]]):
    """One random window of each segment, for notebooks and debugging.

    The segments are decoded into the cache when the data set is made; what cannot be read is
    logged, listed in ``rejects`` and left out, never replaced by dummy data.

    Args:
        df: Rows with ``video_path, phase`` (clips) or ``video_id, start, end, phase``.
        phase2idx: Phase → label.
        window_size: Frames averaged into one image.
        stride: Frames between the starts of neighbouring windows.
        max_frames: Most frames read of a segment.
        video_dir: Folder that relative paths start from.
        coverage: Which frames of a segment.
        image_size: Height and width, pixels.
        mask: Kind of masks, see ``preprocessing.extract_masks``.
        mean: For the normalisation, the backbone's own.
        std: Likewise.
        cache_dir: Folder of the cache.
        seed: The window of a segment is a function of (seed, epoch, segment).
    """

    def __init__(
        self,
        df: pd.DataFrame,
        phase2idx: Mapping[str, int],
        window_size: int = _WINDOWS.window_size,
        stride: int = _WINDOWS.stride,
        max_frames: int = _WINDOWS.max_frames,
        *,
        video_dir: str | Path = ".",
        coverage: Coverage = _WINDOWS.coverage,
        image_size: int = _WINDOWS.image_size,
        mask: MaskKind = "rg",
        mean: Sequence[float] = timm.data.IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = timm.data.IMAGENET_DEFAULT_STD,
        cache_dir: str | Path = DEFAULT_CACHE_DIR,
        seed: int = _TRAINING.seed,
    ) -> None:
        windows = WindowConfig(
            window_size=window_size,
            stride=stride,
            max_frames=max_frames,
            coverage=coverage,
            image_size=image_size,
        )
        rows = [{str(k): str(v) for k, v in row.items()} for row in df.to_dict("records")]
        segments = parse_annotations(rows, video_dir)
        phases = phases_by_label(phase2idx)
        manifest, self.rejects = load_manifest(segments, phases, windows, cache_dir, num_workers=1)
        self._items = manifest.items
        self._ids = hash_ids([item.segment.segment_id for item in self._items])
        self._blocks_per_window = windows.blocks_per_window
        self._image_size = image_size
        self._mask = mask
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._num_classes = len(phases)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the windows of another epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Usable segments."""
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``image`` (3, H, W) normalised, ``mask`` (2, H, W) in [0, 1], ``label`` one-hot (K,)."""
        item = self._items[index]
        windows = cut_windows(item.entry.snippet_lengths, self._blocks_per_window)
        pick = int(hash_ids(self._ids[[index]], self._seed, self._epoch)[0] % len(windows))
        first, count = windows[pick]
        pixels = np.empty((self._image_size, self._image_size, 3), dtype=np.uint8)
        read_window(item, int(first), int(count), pixels)
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image, mask = prepare_batch(to_unit(batch), self._mean, self._std, self._mask)
        label = one_hot(torch.tensor([item.label]), self._num_classes)
        return {"image": image[0], "mask": mask[0], "label": label[0]}


class OphNetDataModule(L.LightningDataModule):
    """Training and validation windows of an annotation CSV, split by case.

    Outside Ray, ``setup`` reads the CSV, splits it and fills the cache. Inside a Ray Train worker
    the manifest is given (``from_manifest``), and each worker reads its own share of the windows.

    Args:
        csv_path: See ``annotations.read_annotations``.
        phase2idx: Phase → label; None for the sorted phases of the CSV.
        batch_size: Windows a step and worker.
        num_workers: Parallel decode workers.
        window_size: Frames averaged into one image.
        stride: Frames between the starts of neighbouring windows.
        max_frames: Most frames read of a segment.
        video_dir: Folder of the videos; the CSV's when None.
        coverage: Which frames of a segment.
        image_size: Height and width, pixels.
        val_fraction: Share of the cases for validation, without a split column.
        cache_dir: Folder of the cache.
        seed: Of the split, the order and the windows.
    """

    def __init__(
        self,
        csv_path: str | Path,
        phase2idx: Mapping[str, int] | None = None,
        batch_size: int = _TRAINING.batch_size,
        num_workers: int = RunConfig.num_workers,
        window_size: int = _WINDOWS.window_size,
        stride: int = _WINDOWS.stride,
        max_frames: int = _WINDOWS.max_frames,
        *,
        video_dir: str | Path | None = None,
        coverage: Coverage = _WINDOWS.coverage,
        image_size: int = _WINDOWS.image_size,
        val_fraction: float = DataConfig.val_fraction,
        cache_dir: str | Path = DEFAULT_CACHE_DIR,
        seed: int = _TRAINING.seed,
    ) -> None:
        super().__init__()
        self.csv_path, self.video_dir, self.cache_dir = csv_path, video_dir, cache_dir
        self.phase2idx = phase2idx
        self.batch_size, self.num_workers = batch_size, num_workers
        self.windows = WindowConfig(
            window_size=window_size,
            stride=stride,
            max_frames=max_frames,
            coverage=coverage,
            image_size=image_size,
        )
        self.val_fraction, self.seed = val_fraction, seed
        self.manifest: Manifest | None = None
        self.rejects: list[Reject] = []

    @classmethod
    def from_manifest(cls, manifest: Manifest, batch_size: int, seed: int) -> Self:
        """A data module that only reads what is in the cache already."""
        w = manifest.windows
        module = cls(
            csv_path="",
            batch_size=batch_size,
            window_size=w.window_size,
            stride=w.stride,
            max_frames=w.max_frames,
            coverage=w.coverage,
            image_size=w.image_size,
            seed=seed,
        )
        module.manifest = manifest
        return module

    def setup(self, stage: str | None = None) -> None:
        """Read, split and decode, unless the manifest is there."""
        if self.manifest is not None:
            return
        segments = read_annotations(self.csv_path, self.video_dir)
        segments = assign_splits(segments, self.val_fraction, self.seed)
        known = self.phase2idx
        phases = phase_vocabulary(segments) if known is None else phases_by_label(known)
        self.manifest, self.rejects = load_manifest(
            segments, phases, self.windows, self.cache_dir, self.num_workers
        )

    def train_dataloader(self) -> WindowLoader:
        """One window of each training segment an epoch; this worker's share."""
        items = self._items("train")
        sampler = TrainingSampler(
            [item.segment.segment_id for item in items],
            [item.entry.snippet_lengths for item in items],
            self._blocks_per_window,
            self.batch_size,
            self.seed,
            rank=self._rank,
            num_replicas=self._num_replicas,
        )
        return WindowLoader(items, sampler, self.windows.image_size)

    def val_dataloader(self) -> WindowLoader:
        """Every window of the validation segments once over all workers."""
        items = self._items("val")
        sampler = ValidationSampler(
            [item.entry.snippet_lengths for item in items],
            self._blocks_per_window,
            self.batch_size,
            rank=self._rank,
            num_replicas=self._num_replicas,
        )
        return WindowLoader(items, sampler, self.windows.image_size)

    def _items(self, split: str) -> list[ManifestItem]:
        if self.manifest is None:
            raise RuntimeError("call setup() first")
        return self.manifest.of_split(split)

    @property
    def _blocks_per_window(self) -> int:
        return self.windows.blocks_per_window

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _num_replicas(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def phases_by_label(phase2idx: Mapping[str, int]) -> list[str]:
    """The phases in the order of their labels; keys that are numbers become text, as in a CSV.

    Raises:
        UserError: The labels are not 0 to K-1, each once.
    """
    if sorted(phase2idx.values()) != list(range(len(phase2idx))):
        raise UserError(f"phase2idx: the labels must be 0 to K-1, each once, not {phase2idx}")
    return [str(phase) for phase in sorted(phase2idx, key=lambda phase: phase2idx[phase])]


def load_manifest(
    segments: list[Segment],
    phases: Sequence[str],
    windows: WindowConfig,
    cache_dir: str | Path,
    num_workers: int,
) -> tuple[Manifest, list[Reject]]:
    """Fill the cache in this process and list what is in it.

    Raises:
        UserError: A setting of the windows is wrong, a video is missing, a phase is not in the
            vocabulary, or nothing can be read.
    """
    Config(windows=windows).validate()
    missing = find_missing_videos(segments)
    if missing:
        raise UserError(f"{len(missing)} videos are missing, the first: {missing[0]}")
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
