"""What a person sees of a search: one live table on a terminal, elsewhere a line for each end."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table

from ophnet_ray.console import Console, run_watched
from ophnet_ray.tune.config import Metric
from ophnet_ray.tune.directory import Trial, best_record
from ophnet_ray.tune.ranking import RankedTrial

T = TypeVar("T")

REFRESH_S = 1.0
MAX_ENDED_ROWS = 12
"""Of a live table; all of them are in ``trials.csv``."""
MAX_RANKED, TABLE_WIDTH = 10, 120
_STYLES = {"finished": "green", "stopped": "dim", "failed": "red", "unfinished": ""}


class SearchTable:
    """Show trials while they run.

    Args:
        console: Where to.
        metric: What is searched for.
        max_epochs: Of each trial.
        num_trials: Planned in all.
        read: The trials as their folders tell them.
    """

    def __init__(
        self,
        console: Console,
        metric: Metric,
        max_epochs: int,
        num_trials: int,
        read: Callable[[], Sequence[Trial]],
    ) -> None:
        self._console, self._metric, self._max_epochs = console, metric, max_epochs
        self._num_trials, self._read = num_trials, read
        self._told = {trial.name for trial in read() if trial.state != "unfinished"}

    def run(self, fit: Callable[[], T]) -> T:
        """Show the trials while ``fit`` runs."""
        with Live(
            console=self._console.rich,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            return run_watched(fit, lambda: self._show(live), REFRESH_S)

    def _show(self, live: Live) -> None:
        trials = self._read()
        self._tell_ends(trials)
        if self._console.rich.is_terminal:
            live.update(self._table(trials), refresh=True)

    def _tell_ends(self, trials: Sequence[Trial]) -> None:
        """Elsewhere than on a terminal: a line for each trial that has ended since."""
        for trial in trials:
            if trial.state == "unfinished" or trial.name in self._told:
                continue
            self._told.add(trial.name)
            if not self._console.rich.is_terminal:
                self._console.say(self._line(trial, len(self._told)))

    def _line(self, trial: Trial, num_ended: int) -> str:
        settings = " ".join(f"{k}={v}" for k, v in format_settings(trial.settings).items())
        what = f"{self._metric} {self._score(trial)}" if trial.history else trial.reason
        where = f"{len(trial.history)}/{self._max_epochs}"
        return (
            f"trial    {num_ended}/{self._num_trials}  {trial.name} {trial.state:<8} "
            f"epoch {where}, {what}, {settings}"
        )

    def _table(self, trials: Sequence[Trial]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = list(trials[0].settings) if trials else []
        for name in ("trial", "state", *names):
            table.add_column(name)
        for name in ("epoch", self._metric, "time"):
            table.add_column(name, justify="right")
        running = [trial for trial in trials if trial.state == "unfinished"]
        ended = [trial for trial in trials if trial.state != "unfinished"][-MAX_ENDED_ROWS:]
        for trial in [*ended, *running]:
            state = "running" if trial.state == "unfinished" else trial.state
            table.add_row(
                trial.name,
                state,
                *format_settings(trial.settings).values(),
                f"{len(trial.history)}/{self._max_epochs}",
                self._score(trial),
                time.strftime("%M:%S", time.gmtime(trial.seconds)),
                style=_STYLES[trial.state],
            )
        num_ended = sum(trial.state != "unfinished" for trial in trials)
        table.caption = f"{num_ended} of {self._num_trials} trials have ended"
        return table

    def _score(self, trial: Trial) -> str:
        return f"{best_record(trial.history)[self._metric]:.4f}" if trial.history else ""


def print_ranking(ranked: Sequence[RankedTrial], metric: Metric) -> None:
    """Print the best trials to stdout, with their 95 % intervals over the validation cases."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(ranked[0].trial.settings)
    table.add_column("trial")
    for name in (metric, "95 % interval"):
        table.add_column(name, justify="right")
    for name in (*names, "epochs", ""):
        table.add_column(name)
    for place, row in enumerate(ranked[:MAX_RANKED]):
        remark: str = row.trial.state if row.trial.state != "finished" else ""
        if row.is_tied:
            remark = "tied with the first"
        elif place == 0 and row.trial.state == "finished":
            remark = "first"
        table.add_row(
            row.trial.name,
            "" if row.score is None else f"{row.score:.4f}",
            "" if row.interval is None else f"{row.interval.low:.3f} to {row.interval.high:.3f}",
            *format_settings(row.trial.settings).values(),
            str(len(row.trial.history)),
            remark,
        )
    console = RichConsole(highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe claims to have 80
    console.print(table)
    if len(ranked) > MAX_RANKED:
        console.print(f"and {len(ranked) - MAX_RANKED} more")


def format_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings for people: numbers with three digits that count."""
    return {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
