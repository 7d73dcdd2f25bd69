"""``python -m ophnet_ray cache``: list the decoded windows and features, or delete unused ones."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from ophnet_ray.cli.checks import check_choice
from ophnet_ray.config import DEFAULT_CACHE_DIR
from ophnet_ray.console import StreamConsole
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import absolute, check_location
from ophnet_ray.wording import say_count

if TYPE_CHECKING:
    # loads the codec, which no other sub-command's --help needs
    from ophnet_ray.data.cache.inventory import Inventory, Shard
    from ophnet_ray.data.features.inventory import EncodedVideos

TABLE_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class CacheCommand:
    """List what a cache holds, windows and features (--list), or delete unused ones (--prune)."""

    list: bool = False
    """List the contents."""
    prune: bool = False
    """Delete shards and features that no recent run started with, and files that killed writers
    left behind."""
    days: float = 30.0
    """For --prune: keep what was used in the last DAYS days."""
    cache_dir: str = DEFAULT_CACHE_DIR
    """Folder of the cache, as given to train.py."""

    def run(self) -> None:
        """Prune, if --prune is given, then print the contents.

        Raises:
            UserError: Neither or both flags are given, there is no cache, or a run is using it.
        """
        check_choice("cache", {"--list": self.list, "--prune": self.prune})
        if not 0 <= self.days < math.inf:
            raise UserError(f"--days {self.days:g}: must be a number of days from 0 on")
        check_location("--cache_dir", self.cache_dir)
        folder = absolute(self.cache_dir)
        console = StreamConsole(highlight=False, soft_wrap=True)
        console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe claims to have 80
        has_features = self._show_features(folder, console)
        self._show_shards(folder, console, has_features=has_features)

    def _show_features(self, folder: str, console: StreamConsole) -> bool:
        """Prune, if asked, and print the features; return False if there are none and were none."""
        from ophnet_ray.data.features.inventory import prune_features, read_features_inventory

        removed = prune_features(folder, self.days) if self.prune else ()
        if removed:
            console.print(
                f"removed the features of {say_count(len(removed), 'encoder')} not used for "
                f"{self.days:g} days, {_size(sum(each.size_bytes for each in removed))}",
                markup=False,
            )
        found = read_features_inventory(folder)
        if found:
            console.print(build_features_table(found))
            total = _size(sum(each.size_bytes for each in found))
            console.print(
                f"features of {say_count(len(found), 'encoder')}, {total}\n", markup=False
            )
        return bool(found or removed)

    def _show_shards(self, folder: str, console: StreamConsole, *, has_features: bool) -> None:
        """Prune, if asked, and print the decoded windows; there may be features alone."""
        from ophnet_ray.data.cache.inventory import has_blocks, prune, read_inventory

        if has_features and not has_blocks(folder):
            return
        if self.prune:
            removed = prune(folder, self.days)
            console.print(
                f"removed {say_count(len(removed.shards), 'shard')} not used for {self.days:g} "
                f"days and {say_count(len(removed.leftovers), 'leftover')}, "
                f"{_size(removed.size_bytes)}",
                markup=False,
            )
        inventory = read_inventory(folder)
        console.print(build_table(inventory.shards))
        console.print(_describe_total(inventory), markup=False)


def build_features_table(found: "Sequence[EncodedVideos]") -> Table:
    """Build a table with one row per encoder, input and rate that features were written with."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("encoder", "weights", "image", "frames", "rate", "causal"):
        table.add_column(name)
    for name in ("videos", "size", "last used"):
        table.add_column(name, justify="right")
    for each in found:
        encoding = each.encoding
        columns = ("unknown", "", "", "", "", "")
        if encoding is not None:
            columns = (
                encoding.backbone,
                encoding.weights_hash[:8],
                str(encoding.image_size),
                f"{encoding.window_size} {encoding.window_image}",
                f"{encoding.frame_rate:g}/s",
                "yes" if encoding.causal else "no",
            )
        table.add_row(*columns, str(each.num_videos), _size(each.size_bytes), _ago(each.used_s))
    return table


def build_table(shards: "Sequence[Shard]") -> Table:
    """Build a table with one row per setting of the windows that runs have used."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("image", "stride", "frames", "coverage", "shows"):
        table.add_column(name)
    for name in ("videos", "segments", "rejected", "shards", "size", "last used"):
        table.add_column(name, justify="right")
    settings = ("image_size", "stride", "max_frames", "coverage")
    groups: dict[tuple[str, ...], list[Shard]] = {}
    for shard in shards:
        windows = shard.index.windows
        cut = (*(str(windows[name]) for name in settings), windows.get("window_image", "mean"))
        groups.setdefault(cut, []).append(shard)
    for cut, members in groups.items():
        entries = [entry for shard in members for entry in shard.index.entries]
        videos = {video for shard in members for video in shard.index.videos}
        rejected = sum(bool(entry.reason) for entry in entries)
        last_used_s = max(shard.used_s for shard in members)
        table.add_row(
            *cut,
            *(str(n) for n in (len(videos), len(entries), rejected, len(members))),
            _size(sum(shard.size_bytes for shard in members)),
            _ago(last_used_s),
        )
    return table


def _describe_total(inventory: "Inventory") -> str:
    shards, leftovers = inventory.shards, inventory.leftovers
    total = _size(sum(shard.size_bytes for shard in shards))
    left = _size(sum(leftover.size_bytes for leftover in leftovers))
    rest = (
        f"; {say_count(len(leftovers), 'leftover')}, {left}, deleted by --prune"
        if leftovers
        else ""
    )
    return f"{say_count(len(shards), 'shard')}, {total}{rest}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"


def _ago(time_s: float) -> str:
    days = (time.time() - time_s) / 86_400
    return "today" if days < 1 else f"{say_count(round(days), 'day')} ago"
