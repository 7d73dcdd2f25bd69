"""Output for the user: progress and notices on stderr, the answer on stdout.

On a terminal a stage is a progress bar; in a log file or a cluster job it is a few lines.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ophnet_ray.characters import escape_unfit
from ophnet_ray.errors import EXIT_FAILED, EXIT_USER_ERROR, UserError
from ophnet_ray.signals import EXIT_INTERRUPTED, Terminated
from ophnet_ray.standard_streams import leave_broken_pipe, write_stdout

T = TypeVar("T")

LINES_PER_STAGE = 8
SECONDS_PER_LINE = 15.0


class StreamConsole(RichConsole):
    """Rich's console, but a reader that leaves ends the program as it does any other."""

    def on_broken_pipe(self) -> NoReturn:
        """End the program; nothing more is printed.

        Raises:
            SystemExit: Code 141.
        """
        self.quiet = True
        leave_broken_pipe()


class Stage:
    """Progress of a stage: a bar on a terminal, elsewhere about ``LINES_PER_STAGE`` lines."""

    def __init__(self, console: StreamConsole, name: str, total: int) -> None:
        self._console, self._name, self._total = console, name, total
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=total, text="")
        self._last_line_s, self._last_done = 0.0, 0
        self._first: tuple[float, int] | None = None

    def set_total(self, total: int) -> None:
        """Set the amount of work, once it is known."""
        self._total = total
        self._progress.update(self._task, total=total)

    def update(self, done: int, text: str, detail: str = "") -> None:
        """Show the work done and a few figures; the detail on a terminal only."""
        self._progress.update(self._task, completed=done, text=text + detail)
        if self._console.is_terminal or done == self._last_done:
            return
        now_s = time.monotonic()
        if self._first is None:
            self._first = now_s, done
        step = max(self._total // LINES_PER_STAGE, 1)
        due = done // step > self._last_done // step and now_s - self._last_line_s > 1
        if due or done == self._total or now_s - self._last_line_s > SECONDS_PER_LINE:
            self._console.print(
                f"{self._name:<8} {done}/{self._total}  {text}{self._time_left(now_s, done)}"
            )
            self._last_line_s = now_s
        self._last_done = done

    def _time_left(self, now_s: float, done: int) -> str:
        """Estimate the time left from the pace since the first result, after the workers' start."""
        first_s, first_done = self._first or (now_s, done)
        if done in (first_done, self._total):
            return ""
        left_s = (now_s - first_s) / (done - first_done) * (self._total - done)
        return f"  {left_s:.0f} s left"


class Console:
    """Console of the user, on stderr; stdout is for the answer.

    Args:
        label: Beginning of each line, where several processes share a terminal: bars would be drawn
            one over the other, so there are lines as in a file.

    Attributes:
        rich: Rich's console, for tables.
    """

    def __init__(self, label: str = "") -> None:
        is_terminal = False if label else None
        self.rich = StreamConsole(
            stderr=True, highlight=False, soft_wrap=True, force_terminal=is_terminal
        )
        self._label = label

    def say(self, text: str) -> None:
        """Print one line."""
        self.rich.print(self._label + escape_unfit(text), markup=False)

    def warn(self, text: str) -> None:
        """Print one line as a warning."""
        line = f"{self._label}warning: {escape_unfit(text)}"
        self.rich.print(line, markup=False, style="yellow")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show a stage with a known amount of work."""
        stage = Stage(self.rich, self._label + name, total)
        with stage._progress:  # noqa: SLF001 - the two classes are one thing
            yield stage


_left_threads: list[threading.Thread] = []
"""Threads of ``run_watched`` whose work was broken off."""


def run_watched(work: Callable[[], T], show: Callable[[], None], interval_s: float) -> T:
    """Run ``work`` in a background thread; this thread calls ``show`` and receives Ctrl-C.

    In the main thread Ray would handle Ctrl-C itself and end the program with code 1.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            future.set_exception(error)

    thread = threading.Thread(target=run, name="watched", daemon=True)
    thread.start()
    try:
        while not wait([future], timeout=interval_s).done:
            show()
    except BaseException as error:
        _left_threads.append(thread)
        atexit.register(end_despite_threads, _exit_code_of(error))
        raise
    result = future.result()
    show()
    return result


def _exit_code_of(error: BaseException) -> int:
    """Return the exit code of a program that an error ends, see ``run_program``."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, Terminated):
        return error.exit_code
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED


def end_despite_threads(exit_code: int) -> None:
    """End the process at once if work of ``run_watched`` that was broken off has not returned.

    It may be in compiled code, where Python would abort the process, or in a call to a Ray that is
    gone, which takes a minute to give up and then ends the process with a code of its own. Python
    itself would first wait for the threads that the work has started.
    """
    if any(thread.is_alive() for thread in _left_threads):
        sys.stdout.flush()
        os._exit(exit_code)


def log_to(path: Path) -> None:
    """Write this process's log, and the warnings of all libraries, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


@contextmanager
def kept_log() -> Iterator[None]:
    """Restore the log that ``log_to`` replaces inside."""
    root = logging.getLogger()
    handlers = root.handlers
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers = handlers


def print_answer(lines: dict[str, object]) -> None:
    """Print names and values to stdout."""
    width = max(len(name) for name in lines) + 1
    for name, value in lines.items():
        write_stdout(f"{name + ':':<{width}} {value}\n")
