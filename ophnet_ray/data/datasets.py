"""Segments as a torch ``Dataset`` and as ``LightningDataModule``s, over the cache, without Ray."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ophnet_ray.config import (
    DEFAULT_CACHE_DIR,
    CaseFrom,
    Coverage,
    DataConfig,
    MaskKind,
    ModelConfig,
    TrainingConfig,
    WindowConfig,
    WindowImage,
)
from ophnet_ray.data.annotations import parse_annotations, phase_vocabulary, read_table
from ophnet_ray.data.duplicates import find_same_videos
from ophnet_ray.data.loader import WindowLoader, read_window
from ophnet_ray.data.manifest import Manifest, prepare_manifest
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.preprocessing import one_hot, prepare_batch, to_unit
from ophnet_ray.data.samplers import TrainingSampler, ValidationSampler, pick_windows
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.data.segments import Reject
from ophnet_ray.data.shard_order import ShardOrder
from ophnet_ray.data.splits import FITTED_SPLITS, assign_splits
from ophnet_ray.data.window_counts import WindowCounts
from ophnet_ray.data.windows import count_channels, cut_windows, shown_blocks
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_ids
from ophnet_ray.sampling_config import SamplerKind, SamplingConfig, Shuffle
from ophnet_ray.settings import NUM_WORKERS, check_rules, count_rule

VAL_BATCH_FACTOR = 4
"""Windows of a validation step for each of a training step: it keeps no activations."""
_WINDOWS, _TRAINING, _SAMPLING = WindowConfig(), TrainingConfig(), SamplingConfig()


class OphNetSurgicalDataset(Dataset[dict[str, Tensor]]):
    """The first window that an epoch takes of each segment, for notebooks and debugging.

    Building the data set decodes the segments into the cache. What cannot be read is logged, listed
    in ``rejects`` and left out, never replaced by dummy data.

    Args:
        df: Rows with ``video_path, phase`` (clips) or ``video_id, start, end, phase``.
        phase2idx: Phase → label.
        window_size: Frames averaged into one image.
        stride: Frames between the starts of neighbouring windows.
        max_frames: Maximum number of frames read per segment.
        video_dir: Folder that relative paths start from.
        allow_outside: See ``DataConfig``; the folder is ``video_dir``.
        coverage: See ``WindowConfig``.
        image_size: Height and width, pixels.
        window_image: Picture of a window, see ``WindowConfig``.
        mask: Kind of masks, see ``preprocessing.extract_masks``.
        mean: Mean of the normalisation, the backbone's own, (3,).
        std: Its standard deviation, (3,).
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
        allow_outside: bool = DataConfig.allow_outside,
        coverage: Coverage = _WINDOWS.coverage,
        image_size: int = _WINDOWS.image_size,
        window_image: WindowImage = _WINDOWS.window_image,
        mask: MaskKind = ModelConfig.mask,
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
            window_image=window_image,
        )
        rows = [{str(k): str(v) for k, v in row.items()} for row in df.to_dict("records")]
        # nothing is split here, so a clip table need not tell its cases
        case_from: CaseFrom = "clip" if "video_path" in df.columns else "auto"
        segments = parse_annotations(rows, video_dir, case_from, allow_outside=allow_outside)
        phases = phases_by_label(phase2idx)
        manifest, self.rejects = prepare_manifest(
            segments, phases, windows, cache_dir, num_workers=1
        )
        self._items = manifest.items
        self._ids = hash_ids([segment.segment_id for segment in manifest.rows.segments])
        self._windows = windows
        self._mask = mask
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._num_classes = len(phases)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, whose windows are picked."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of usable segments."""
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read the window of a segment.

        Returns:
            ``image`` float32 (3, H, W), normalised; ``mask`` (2 or more, H, W) in [0, 1];
            ``label`` one-hot (K,).
        """
        item = self._items[index]
        windows = cut_windows(item.entry.snippet_lengths, self._windows.blocks_per_window)
        num_windows = np.asarray([len(windows)], dtype=np.uint64)
        (picked,) = pick_windows(self._ids[[index]], num_windows, self._seed, self._epoch)
        first, count = windows[picked].tolist()
        size, kind = self._windows.image_size, self._windows.window_image
        pixels = np.empty((size, size, count_channels(kind)), dtype=np.uint8)
        read_window(item.entry, *shown_blocks(first, count, kind), pixels)
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image, mask = prepare_batch(to_unit(batch), self._mean, self._std, self._mask)
        label = one_hot(torch.tensor([item.label]), self._num_classes)
        return {"image": image[0], "mask": mask[0], "label": label[0]}


class ManifestDataModule(L.LightningDataModule):
    """Training and validation windows of a manifest, whose blocks are in the cache.

    Each worker of a distributed training reads its own share of the windows.

    Args:
        manifest: The segments; a subclass may set it in ``setup``.
        batch_size: Windows per step and worker.
        seed: Of the order and the windows.
        begun_with: See ``plan_training_steps``.
        sampling: Windows of an epoch; by default one of each training segment.
        val_batch_size: Windows per validation step and worker; None: see ``VAL_BATCH_FACTOR``.
    """

    def __init__(
        self,
        manifest: Manifest | ManifestColumns | None,
        batch_size: int,
        seed: int,
        begun_with: int | None = None,
        *,
        sampling: SamplingConfig = _SAMPLING,
        val_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_rules([count_rule("batch_size", batch_size)])
        check_rules(sampling.rules())
        self.manifest, self.batch_size, self.seed = manifest, batch_size, seed
        self.begun_with, self.sampling = begun_with, sampling
        self.val_batch_size = val_batch_size or VAL_BATCH_FACTOR * batch_size

    def train_dataloader(self) -> WindowLoader:
        """Build the loader of this worker's share of an epoch's windows."""
        columns = self._columns
        segments = columns.of_split("train")
        sampling, counts, shards = self.sampling, None, None
        if not sampling.takes_one_each:
            counts = WindowCounts(
                segments.ids, segments.labels, segments.lengths, sampling, self.seed
            )
        if sampling.shuffle == "shard":
            shards = ShardOrder(segments.ids, segments.shuffle_groups, sampling.shuffle_shards)
        sampler = TrainingSampler(
            segments.ids,
            segments.layouts,
            columns.windows.blocks_per_window,
            self.batch_size,
            self.seed,
            rank=self._rank,
            num_replicas=self._num_replicas,
            begun_with=self.begun_with,
            counts=counts,
            shards=shards,
        )
        return self._build_loader(segments, sampler)

    def val_dataloader(self) -> WindowLoader:
        """Build the loader of every validation window, once over all workers."""
        columns = self._columns
        segments = columns.of_split("val")
        sampler = ValidationSampler(
            segments.layouts,
            columns.windows.blocks_per_window,
            self.val_batch_size,
            rank=self._rank,
            num_replicas=self._num_replicas,
        )
        return self._build_loader(segments, sampler)

    def _build_loader(
        self, segments: SegmentColumns, sampler: TrainingSampler | ValidationSampler
    ) -> WindowLoader:
        windows = self._columns.windows
        is_on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return WindowLoader(
            segments, sampler, windows.image_size, windows.window_image, pin_memory=is_on_gpu
        )

    @cached_property
    def _columns(self) -> ManifestColumns:
        if self.manifest is None:
            raise RuntimeError("call setup() first")
        if isinstance(self.manifest, ManifestColumns):
            return self.manifest
        return ManifestColumns.of_manifest(self.manifest)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _num_replicas(self) -> int:
        return self.trainer.world_size if self.trainer else 1


class OphNetDataModule(ManifestDataModule):
    """Training and validation windows of an annotation CSV, split by case, without Ray.

    ``setup`` reads the CSV, splits it and fills the cache; the rows that cannot be read are then
    in ``rejects``.

    Args:
        csv_path: See ``annotations.read_annotations``.
        phase2idx: Phase → label; None for the sorted phases of the CSV.
        batch_size: Windows per step and worker.
        num_workers: Parallel decode workers.
        window_size: Frames averaged into one image.
        stride: Frames between the starts of neighbouring windows.
        max_frames: Maximum number of frames read per segment.
        video_dir: Folder of the videos; the CSV's when None.
        coverage: See ``WindowConfig``.
        image_size: Height and width, pixels.
        window_image: Picture of a window, see ``WindowConfig``.
        case_from: See ``DataConfig``.
        allow_outside: See ``DataConfig``.
        val_fraction: Share of the cases for validation, without a split column.
        cache_dir: Folder of the cache.
        seed: Of the split, the order and the windows.
        sampler: See ``SamplingConfig``.
        windows_per_segment: See there.
        shuffle: See there.
        shuffle_shards: See there.

    Raises:
        UserError: A number is outside of its limits.
    """

    def __init__(
        self,
        csv_path: str | Path,
        phase2idx: Mapping[str, int] | None = None,
        batch_size: int = _TRAINING.batch_size,
        num_workers: int = NUM_WORKERS,
        window_size: int = _WINDOWS.window_size,
        stride: int = _WINDOWS.stride,
        max_frames: int = _WINDOWS.max_frames,
        *,
        video_dir: str | Path | None = None,
        coverage: Coverage = _WINDOWS.coverage,
        image_size: int = _WINDOWS.image_size,
        window_image: WindowImage = _WINDOWS.window_image,
        case_from: CaseFrom = DataConfig.case_from,
        allow_outside: bool = DataConfig.allow_outside,
        val_fraction: float = DataConfig.val_fraction,
        cache_dir: str | Path = DEFAULT_CACHE_DIR,
        seed: int = _TRAINING.seed,
        sampler: SamplerKind = _SAMPLING.sampler,
        windows_per_segment: int = _SAMPLING.windows_per_segment,
        shuffle: Shuffle = _SAMPLING.shuffle,
        shuffle_shards: int = _SAMPLING.shuffle_shards,
    ) -> None:
        sampling = SamplingConfig(
            sampler=sampler,
            windows_per_segment=windows_per_segment,
            shuffle=shuffle,
            shuffle_shards=shuffle_shards,
        )
        super().__init__(None, batch_size, seed, sampling=sampling)
        self.csv_path, self.video_dir, self.cache_dir = csv_path, video_dir, cache_dir
        self.phase2idx, self.num_workers = phase2idx, num_workers
        self.windows = WindowConfig(
            window_size=window_size,
            stride=stride,
            max_frames=max_frames,
            coverage=coverage,
            image_size=image_size,
            window_image=window_image,
        )
        check_rules([count_rule("num_workers", num_workers)])
        check_rules(self.windows.rules())
        self.case_from, self.val_fraction = case_from, val_fraction
        self.allow_outside = allow_outside
        self.rejects: list[Reject] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the CSV, split it and decode what the cache lacks, unless that is done."""
        if self.manifest is not None:
            return
        table = read_table(
            self.csv_path, self.video_dir, self.case_from, allow_outside=self.allow_outside
        )
        same_videos = find_same_videos(table.segments.videos.list_present())
        segments = assign_splits(table.segments, self.val_fraction, self.seed, same_videos)
        known = self.phase2idx
        phases = phase_vocabulary(segments) if known is None else phases_by_label(known)
        fitted = segments.of_splits(FITTED_SPLITS)
        self.manifest, self.rejects = prepare_manifest(
            fitted, phases, self.windows, self.cache_dir, self.num_workers
        )


def phases_by_label(phase2idx: Mapping[str, int]) -> list[str]:
    """Sort phases by label; keys that are numbers become text, as in a CSV.

    Raises:
        UserError: The labels are not 0 to K-1, each once.
    """
    if sorted(phase2idx.values()) != list(range(len(phase2idx))):
        raise UserError(f"phase2idx: the labels must be 0 to K-1, each once, not {phase2idx}")
    return [str(phase) for phase in sorted(phase2idx, key=lambda phase: phase2idx[phase])]
