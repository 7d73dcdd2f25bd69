"""Listing of runs as JSON and as a page."""

import json
from pathlib import Path
from typing import Any

from ophnet_ray import __version__
from ophnet_ray.reports.runs_report import RunRow, RunsReport, RunTable, write_runs_report
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_listing import RankedRun, RunGroup, RunListing
from ophnet_ray.wording import say_count

JSON_FILE, PAGE_FILE = "runs.json", "runs.html"
REPORT = "report.html"
TIES = (
    "Tie: the paired 95 % interval of the best run's lead, on the same validation cases, includes "
    "0. The best of many runs leads partly by chance, on the cases that chose it."
)
DATA = (
    "Runs on different data are never in one ranking: each table has one data hash, which stands "
    "for the rows, their split and the videos."
)


def write_listing(folder: Path, listing: RunListing, source: str, local: Path | None) -> None:
    """Write ``runs.json`` and ``runs.html``, each atomically.

    Args:
        folder: Output folder.
        listing: The runs.
        source: Storage path, as the user gave it.
        local: Storage path on this machine, for links; None for a bucket.
    """
    content = {
        "storage_path": source,
        "groups": [_describe_group(group) for group in listing.groups],
        "damaged": [{"name": name, "reason": reason} for name, reason in listing.damaged],
        "left_out_by_filter": listing.num_left_out,
    }
    write_atomically(folder / JSON_FILE, json.dumps(content, indent=1).encode())
    report = RunsReport(
        title="Runs",
        subtitle=f"{source}: {describe_listing(listing)}",
        tables=[
            RunTable(
                group.data_hash,
                group.data,
                group.unit,
                group.differing,
                [_build_row(row, group, local) for row in group.runs],
            )
            for group in listing.groups
        ],
        damaged=listing.damaged,
        notes=(TIES, DATA) if listing.num_runs else (),
        versions={"ophnet-ray": __version__},
    )
    write_runs_report(folder / PAGE_FILE, report)


def describe_listing(listing: RunListing) -> str:
    """Return the numbers of runs, data sets and damaged directories in words."""
    num_data = len({group.data_hash for group in listing.groups})
    parts = [f"{say_count(listing.num_runs, 'run')} on {say_count(num_data, 'data set')}"]
    if listing.damaged:
        parts.append(f"{len(listing.damaged)} damaged")
    if listing.num_left_out:
        parts.append(f"{listing.num_left_out} left out by --filter")
    return ", ".join(parts)


def _build_row(row: RankedRun, group: RunGroup, local: Path | None) -> RunRow:
    run = row.run
    return RunRow(
        name=run.name,
        state=run.state,
        rank=row.rank,
        score=run.score,
        interval=run.interval,
        accuracy=run.scores.get("val_acc"),
        lead=row.lead,
        is_tied=row.is_tied,
        epochs=run.epochs,
        seconds=run.seconds,
        settings={name: run.settings.get(name) for name in group.differing},
        report=local / run.name / REPORT if local and run.has_report else None,
    )


def _describe_group(group: RunGroup) -> dict[str, Any]:
    return {
        "data_hash": group.data_hash,
        "data": group.data,
        "unit": group.unit,
        "runs": [
            {
                "name": row.run.name,
                "state": row.run.state,
                "rank": row.rank,
                "scores": dict(row.run.scores),
                "interval": None if row.run.interval is None else list(row.run.interval),
                "lead_of_best": None if row.lead is None else list(row.lead),
                "tied": row.is_tied,
                "epochs": row.run.epochs,
                "seconds": row.run.seconds,
                "settings": {name: row.run.settings.get(name) for name in group.differing},
            }
            for row in group.runs
        ],
    }
