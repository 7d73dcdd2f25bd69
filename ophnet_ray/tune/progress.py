"""Progress of a search: a live table on a terminal, else one line per trial that has ended."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rich.live import Live
from rich.table import Table

from ophnet_ray.console import Console, StreamConsole, run_watched
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.ranking import RankedTrial
from ophnet_ray.tune.trial import Trial
from ophnet_ray.tune.trial_pulse import SilentTrials
from ophnet_ray.wording import say_count

T = TypeVar("T")

REFRESH_S = 1.0
MAX_ENDED_ROWS = 12
"""Rows of ended trials in the live table; ``trials.csv`` has all of them."""
MAX_RANKED, TABLE_WIDTH = 10, 120
_STYLES = {
    "finished": "green",
    "stopped": "dim",
    "diverged": "red",
    "failed": "red",
    "unfinished": "",
}


class SearchTable:
    """Live table of the trials of a search.

    Args:
        console: Destination.
        metric: Score that is maximised.
        max_epochs: Epochs of a whole trial.
        num_trials: Number of trials of the search.
        read: Reads the trials from their folders.
    """

    def __init__(
        self,
        console: Console,
        metric: RankedMetric,
        max_epochs: int,
        num_trials: int,
        read: Callable[[], Sequence[Trial]],
    ) -> None:
        self._console, self._metric, self._max_epochs = console, metric, max_epochs
        self._num_trials, self._read = num_trials, read
        self._silent = SilentTrials()
        self._reported = {trial.name for trial in read() if trial.has_ended}

    def run(self, fit: Callable[[], T]) -> T:
        """Call ``fit``, show the trials until it returns, and return its result."""
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
        self._report_ended(trials)
        for silence in self._silent.name_new(trials):
            self._console.warn(silence)
        if self._console.rich.is_terminal:
            live.update(self._build_table(trials), refresh=True)

    def _report_ended(self, trials: Sequence[Trial]) -> None:
        """Print one line per trial that has ended since the last call, except on a terminal."""
        for trial in trials:
            if not trial.has_ended or trial.name in self._reported:
                continue
            self._reported.add(trial.name)
            if not self._console.rich.is_terminal:
                self._console.say(self._format_line(trial, len(self._reported)))

    def _format_line(self, trial: Trial, num_ended: int) -> str:
        settings = " ".join(f"{k}={v}" for k, v in format_settings(trial.settings).items())
        result = f"{self._metric} {self._format_score(trial)}" if trial.is_scored else trial.reason
        return (
            f"trial    {num_ended}/{self._num_trials}  {trial.name} {trial.state:<8} "
            f"{self._describe_position(trial)}, {result}, {settings}"
        )

    def _build_table(self, trials: Sequence[Trial]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = list(trials[0].settings) if trials else []
        for name in ("trial", "state", *names):
            table.add_column(name)
        # those of a search are all scored in one way
        position = "fold" if trials and trials[0].num_folds else "epoch"
        for name in (position, self._metric, "time"):
            table.add_column(name, justify="right")
        running = [trial for trial in trials if not trial.has_ended]
        ended = [trial for trial in trials if trial.has_ended]
        for trial in [*ended[-MAX_ENDED_ROWS:], *running]:
            state = trial.state if trial.has_ended else "running"
            table.add_row(
                trial.name,
                state,
                *format_settings(trial.settings).values(),
                self._describe_position(trial).removeprefix(f"{position} "),
                self._format_score(trial),
                format_duration(trial.seconds),
                style=_STYLES[trial.state],
            )
        table.caption = f"ended: {len(ended)} of {say_count(self._num_trials, 'trial')}"
        return table

    def _format_score(self, trial: Trial) -> str:
        return f"{trial.scored[self._metric]:.4f}" if trial.is_scored else ""

    def _describe_position(self, trial: Trial) -> str:
        if trial.num_folds is not None:
            return f"fold {len(trial.history)}/{trial.num_folds}"
        return f"epoch {len(trial.history)}/{self._max_epochs}"


def print_ranking(ranked: Sequence[RankedTrial], winner: RankedTrial, metric: RankedMetric) -> None:
    """Print the best trials to stdout, with their 95 % intervals over the validation cases."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(ranked[0].trial.settings)
    table.add_column("trial")
    for name in (metric, "95 % interval"):
        table.add_column(name, justify="right")
    for name in (*names, "epochs", ""):
        table.add_column(name)
    for row in ranked[:MAX_RANKED]:
        remark: str = row.trial.state if row.trial.state != "finished" else ""
        if row.is_tied:
            remark = "tied with the winner"
        elif row.trial.number == winner.trial.number:
            remark = "winner"
        table.add_row(
            row.trial.name,
            "" if row.score is None else f"{row.score:.4f}",
            "" if row.interval is None else f"{row.interval.low:.3f} to {row.interval.high:.3f}",
            *format_settings(row.trial.settings).values(),
            str(row.trial.num_epochs),
            remark,
        )
    console = StreamConsole(highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)  # Rich assumes 80 for a file or a pipe
    console.print(table)
    if len(ranked) > MAX_RANKED:
        console.print(f"and {len(ranked) - MAX_RANKED} more")


def format_duration(seconds: float) -> str:
    """Format a duration as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def format_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Format settings for people: numbers with three significant digits."""
    return {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
