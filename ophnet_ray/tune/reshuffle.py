"""A new holdout for each trial of a search (``--reshuffle``), as a function of (seed, trial).

On one holdout the winner is the trial that suits its cases by chance, too. With another holdout for
each trial no case decides for all of them, at the price of scores that are not comparable case by
case: Nagler, Schneider, Bischl and Feurer, "Reshuffling Resampling Splits Can Improve
Generalization of Hyperparameter Optimization" (NeurIPS 2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ophnet_ray.data.durations import read_ends
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.hashing import hash_ids
from ophnet_ray.train.run import Run


@dataclass(frozen=True, eq=False)
class Reshuffle:
    """Source of the holdouts of a search.

    Attributes:
        segments: Usable segments, with the split of the first trial; none of the test split.
        val_fraction: Share of the cases that each other holdout takes.
        seed: Seed of the search.
        same_videos: Groups of videos of equal content; cases that share a video stay together.
        content_ids: Content ids of the videos, by which another training knows them.
        ends_s: Seconds at which videos end, of those where a score of frames asks for it: read once
            for all trials.
    """

    segments: SegmentTable
    val_fraction: float
    seed: int
    same_videos: tuple[Sequence[str], ...]
    content_ids: Mapping[str, str]
    ends_s: Mapping[str, float] = field(default_factory=dict)

    def split_rows(self, number: int) -> SegmentTable:
        """Return the segments with their splits in a trial.

        The first trial, number 0, keeps the split that ``train.py`` has. All others choose among
        stratified splits that cut no case; a split column of the CSV does not count for them.
        """
        if number == 0:
            return self.segments
        seed = int(hash_ids(["holdout"], self.seed, number)[0] >> 33)
        pooled = self.segments.with_splits(self.segments.splits.rename(lambda _: "train"))
        return assign_splits(pooled, self.val_fraction, seed, self.same_videos)

    def apply(self, manifest: Manifest, number: int) -> Manifest:
        """Return a manifest of the same segments with the split of a trial."""
        split = self.split_rows(number)
        split_of = dict(zip(split.segment_ids(), split.splits, strict=True))
        is_known = [name in split_of for name in manifest.rows.segments.segment_ids()]
        rows = manifest.rows.take(np.flatnonzero(is_known))
        splits = TextColumn.of_texts(split_of[name] for name in rows.segments.segment_ids())
        rows = replace(rows, segments=rows.segments.with_splits(splits))
        videos = rows.of_split("train").segments.videos.list_present()
        ids = sorted({self.content_ids[video] for video in videos if video in self.content_ids})
        return Manifest(manifest.phases, manifest.windows, rows, tuple(ids))


def build_reshuffle(run: Run, manifest: Manifest) -> Reshuffle:
    """Return the source of the holdouts of a search, of the segments that its run can use.

    Raises:
        UserError: The score is of frames, and a video whose length it needs cannot be read.
    """
    config, videos = run.config, manifest.rows.segments.videos.list_present()
    scores_frames = config.training.scores_frames
    return Reshuffle(
        manifest.rows.segments,
        config.data.val_fraction,
        config.training.seed,
        run.data.same_videos,
        run.open_cache().identify_ends(videos, run.data.files),
        read_ends(manifest.rows, config.run.local_cache_dir) if scores_frames else {},
    )
