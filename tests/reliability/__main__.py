"""Harness: ``python -m tests.reliability --case NAME --n N``, or ``--fuzz`` for all parsers.

Faults and inputs are functions of (case, seed, number), never of the clock. Exit code 1 if a case
fails. ``--output`` names a JSON file with all counts.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.reliability.cases import CASES
from tests.reliability.outcome import Outcome, timed


def main() -> int:
    """Run the chosen cases and print one table."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="a case; may be repeated")
    parser.add_argument("--fuzz", action="store_true", help="all parsers")
    parser.add_argument("--n", type=int, help="inputs per case (default: the full size)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file of the counts")
    given = parser.parse_args()
    names = given.case or [name for name, each in CASES.items() if each.is_fuzz or not given.fuzz]
    # skipped checkpoints and codecs say so for each of thousands of inputs
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    outcomes = {}
    for name in names:
        case = CASES[name]
        with tempfile.TemporaryDirectory(prefix="ophnet-reliability-") as folder:
            n = given.n or case.full_n
            outcomes[name] = timed(lambda: case.run(n, given.seed, Path(folder)))  # noqa: B023
    show(outcomes)
    if given.output:
        content = {name: outcome.to_dict() for name, outcome in outcomes.items()}
        given.output.write_text(json.dumps({"seed": given.seed, "cases": content}, indent=1))
    return 0 if all(outcome.has_passed for outcome in outcomes.values()) else 1


def show(outcomes: dict[str, Outcome]) -> None:
    """Print one row per case, and the first example of each failure."""
    table = Table("case", "n", "passed", "seconds", "outcomes")
    for name, outcome in outcomes.items():
        counts = ", ".join(f"{count} {kind}" for kind, count in outcome.counts.most_common())
        counts += "".join(
            f"; {name} p50 {half:.3g}, p95 {most:.3g}"
            for name, (half, most) in outcome.quantiles().items()
        )
        passed = outcome.num_runs - outcome.num_failures
        row = (name, outcome.num_runs, passed, f"{outcome.seconds:.1f}", counts)
        table.add_row(*map(str, row))
    console = Console(width=160)
    console.print(table, markup=False)
    for name, outcome in outcomes.items():
        for kind, example in outcome.failures.items():
            console.print(f"{name}: {kind}: {example}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
