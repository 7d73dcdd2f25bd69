"""Figures as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A measured number; ``target`` is its bound, e.g. ``<= 1.15``, empty without one."""

    name: str
    value: float
    note: str = ""
    target: str = ""

    @property
    def holds(self) -> bool | None:
        """True if the target is met, False if not, None without a target."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


SLOPE_FROM = 0.05
"""Seconds, or MB, below which a slope says nothing."""


def describe_growth(name: str, scale: int, values: Mapping[int, float], target: str = "") -> Figure:
    """Return the value at a scale, with its slope from the next smaller one.

    A slope is the power of ten by which a value grows where the data grow tenfold.
    """
    smaller = [other for other in values if other < scale]
    note = ""
    if smaller and values[smaller[-1]] > SLOPE_FROM and "per segment" not in name:
        growth = values[scale] / values[smaller[-1]]
        note = f"slope {math.log(growth) / math.log(scale / smaller[-1]):.2f}" if growth else ""
    return Figure(f"{scale} x OphNet, {name}", values[scale], note, target)


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    console = Console(highlight=False)
    console.width = max(console.width, 150)
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in ("figure", "value", "target", "", "note"):
        table.add_column(name, justify="right" if name == "value" else "left")
    verdicts = {None: "", True: "yes", False: "NO"}
    for figure in figures:
        value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.4g}"
        table.add_row(figure.name, value, figure.target, verdicts[figure.holds], figure.note)
    console.print(table)


def write_json(path: Path, sections: dict[str, list[Figure]]) -> None:
    """Write all figures, by section, as JSON."""
    content = {name: [asdict(f) | {"holds": f.holds} for f in fs] for name, fs in sections.items()}
    path.write_text(json.dumps(content, indent=1) + "\n")
