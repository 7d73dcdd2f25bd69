"""``python -m ophnet_ray runs``: the runs of a storage path, ranked on the same data."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from ophnet_ray.characters import escape_unfit
from ophnet_ray.cli.checks import create_output_folder
from ophnet_ray.config import RunConfig
from ophnet_ray.console import Console, StreamConsole, print_answer
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import exists
from ophnet_ray.storage.paths import absolute, check_location, is_remote, plain_uri

if TYPE_CHECKING:
    # loads torch
    from ophnet_ray.train.run_listing import RankedRun, RunGroup, RunListing

MAX_NAMED = 3
"""Damaged run directories that the console names; the page names all."""
MAX_ROWS = 40
"""Runs of one data set on the console."""
TABLE_WIDTH = 140


@dataclass(frozen=True, kw_only=True)
class RunsCommand:
    """List the runs of a storage path: scores with intervals, ties, time, settings that differ."""

    storage_path: str = RunConfig.storage_path
    """Folder of the runs, as given to train.py; a bucket, too."""
    sort: Literal["score", "accuracy", "time", "epochs", "name"] = "score"
    """Order of the runs on the same data."""
    filter: tuple[str, ...] = ()
    """Show only runs with these settings, e.g. lr=0.001 backbone=convnext* state=complete
    name=demo-*."""
    trials: bool = False
    """List the trials of searches, too."""
    output: str = "listing"
    """Folder of runs.json and runs.html, which links to the runs' reports."""

    def run(self) -> None:
        """Read the small files of all runs, print tables, and write the page.

        Raises:
            UserError: The storage path does not exist, or a filter is wrong.
            StorageError: The bucket does not answer.
        """
        check_location("--storage_path", self.storage_path)
        source = absolute(self.storage_path)
        if not is_remote(source) and not exists(source):
            raise UserError(f"--storage_path {self.storage_path} does not exist")
        if not is_remote(source) and not Path(source).is_dir():
            raise UserError(f"--storage_path {self.storage_path} is a file; it takes a folder")
        folder = create_output_folder(self.output, "runs.json", "runs.html")
        from ophnet_ray.train.bucket_listing import fetched_runs
        from ophnet_ray.train.listing_report import (
            JSON_FILE,
            PAGE_FILE,
            describe_listing,
            write_listing,
        )
        from ophnet_ray.train.run_listing import list_runs

        local = None if is_remote(source) else Path(source)
        with ExitStack() as held:
            root = local or held.enter_context(fetched_runs(source))
            listing = list_runs(root, self.filter, self.sort, has_trials=self.trials)
        write_listing(folder, listing, plain_uri(self.storage_path), local)
        _print_listing(listing)
        print_answer(
            {
                "runs": describe_listing(listing),
                "listing": folder / JSON_FILE,
                "report": folder / PAGE_FILE,
            }
        )


def _print_listing(listing: "RunListing") -> None:
    console = StreamConsole(highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe claims to have 80
    for group in listing.groups:
        data = escape_unfit(group.data)
        console.print(f"data {group.data_hash[:8] or 'not known'}: {data}", markup=False)
        console.print(build_table(group))
        if len(group.runs) > MAX_ROWS:
            console.print(f"and {len(group.runs) - MAX_ROWS} more, on the page", markup=False)
        console.print()
    warner = Console()
    for name, reason in listing.damaged[:MAX_NAMED]:
        warner.warn(f"{name}: {reason}")
    if len(listing.damaged) > MAX_NAMED:
        warner.warn(
            f"{len(listing.damaged) - MAX_NAMED} more damaged run directories, see the page"
        )


def build_table(group: "RunGroup") -> Table:
    """Build the table of the runs on the same data."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold")
    for name in ("macro-F1", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("epochs", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("settings that differ", overflow="fold")
    for row in group.runs[:MAX_ROWS]:
        table.add_row(*(Text(escape_unfit(cell)) for cell in _format_row(row, group)))
    return table


def _format_row(row: "RankedRun", group: "RunGroup") -> tuple[str, ...]:
    from ophnet_ray.reports.page import format_clock, format_plain

    run, ends = row.run, row.run.interval
    return (
        str(row.rank or ""),
        run.name,
        "" if run.score is None else f"{run.score:.4f}",
        "" if ends is None else f"{ends.low:.3f} to {ends.high:.3f}",
        "best" if row.rank == 1 else "tie" if row.is_tied else "",
        run.state,
        str(run.epochs),
        format_clock(run.seconds),
        " ".join(f"{name}={format_plain(run.settings.get(name))}" for name in group.differing),
    )
