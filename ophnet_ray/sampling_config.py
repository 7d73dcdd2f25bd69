"""Flags of sampling: the windows that each epoch takes of the training segments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from ophnet_ray.settings import Rule, count_rule, setting, show
from ophnet_ray.wording import say_count

SamplerKind = Literal["segment", "balanced", "seconds"]
Shuffle = Literal["global", "shard"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The training windows of an epoch."""

    sampler: SamplerKind = setting("segment", is_late=True)
    """Windows of an epoch: as many of each segment; balanced, as many of each phase; or seconds, in
    proportion to the duration of the segments (of clips: their decoded length)."""
    windows_per_segment: int = setting(1, is_late=True)
    """Windows of each segment in an epoch, with balanced and seconds on average; those of a segment
    differ until it has no other."""
    shuffle: Shuffle = setting("global", is_late=True)
    """Order of an epoch's windows: global, at random; or shard, one file of the cache after the
    other in random order, a few of them mixed, for a cache in a bucket that is larger than the disk
    of a node: each node fetches only the files that its workers read."""
    shuffle_shards: int = setting(64, is_late=True)
    """With --shuffle shard: files of the cache (32 MB each) that are mixed at a time, over all
    workers, which each read their share of them."""

    @property
    def takes_one_each(self) -> bool:
        """True if an epoch takes one window of every segment."""
        return self.sampler == "segment" and self.windows_per_segment == 1

    def count_windows(self, num_segments: int) -> int:
        """Return the windows of an epoch, whatever the sampler."""
        return num_segments * self.windows_per_segment

    def describe(self, num_segments: int) -> str:
        """Return what an epoch takes of the training segments, for a message."""
        segments, num_windows = say_count(num_segments, "segment"), self.count_windows(num_segments)
        match self.sampler:
            case "balanced":
                return f"{segments}, {say_count(num_windows, 'window')}, as many of each phase"
            case "seconds":
                return f"{segments}, {say_count(num_windows, 'window')}, by duration"
        if self.windows_per_segment == 1:
            return segments
        return f"{segments}, {self.windows_per_segment} windows of each"

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        kinds = get_args(SamplerKind)
        yield (
            self.sampler in kinds,
            f"--sampler {show(self.sampler)}: choose from {', '.join(kinds)}",
        )
        yield count_rule("windows_per_segment", self.windows_per_segment)
        orders = get_args(Shuffle)
        yield (
            self.shuffle in orders,
            f"--shuffle {show(self.shuffle)}: choose from {', '.join(orders)}",
        )
        yield count_rule("shuffle_shards", self.shuffle_shards)
