"""Page of a listing of runs: one table per data set, with ties and the settings that differ."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.reports.page import write_page

MAX_COLUMNS = 40
"""Settings that a table shows; runs of many versions may differ in more."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the table; ``rank`` is None for runs that are not complete.

    ``lead``: interval of the lead of the best run of the table, in pairs; ``report``: path of its
    page, or None.
    """

    name: str
    state: str
    rank: int | None
    score: float | None
    interval: Interval | None
    accuracy: float | None
    lead: Interval | None
    is_tied: bool
    epochs: int
    seconds: float
    settings: Mapping[str, Any]
    report: Path | None


@dataclass(frozen=True, slots=True)
class RunTable:
    """Runs on the same data; ``names``: the settings that differ."""

    data_hash: str
    data: str
    unit: str
    names: Sequence[str]
    rows: Sequence[RunRow]


@dataclass(frozen=True)
class RunsReport:
    """Content of the page; ``damaged``: name and reason of run directories that cannot be read."""

    title: str
    subtitle: str
    tables: Sequence[RunTable]
    damaged: Sequence[tuple[str, str]]
    notes: Sequence[str]
    versions: Mapping[str, str]


def write_runs_report(path: Path, report: RunsReport) -> None:
    """Write the page atomically: one file, without scripts, with links to the runs' own pages."""
    links = {
        row.name: link_to(row.report, path.parent)
        for table in report.tables
        for row in table.rows
        if row.report is not None
    }
    write_page(path, "runs.html.j2", {"report": report, "links": links, "max_columns": MAX_COLUMNS})


def link_to(target: Path, folder: Path) -> str:
    """Return the relative link to a file from a page in a folder.

    It begins with a dot, and no character has a meaning in it: no name is taken for a scheme.
    """
    relative = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    return "./" + quote(Path(relative).as_posix().encode("utf-8", "surrogateescape"), safe="/")
