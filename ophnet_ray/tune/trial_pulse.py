"""Pulse of a trial: a file that its process touches, so that one that is stopped is found.

A process that was stopped (SIGSTOP) or whose machine hangs fails nothing: Ray waits for it.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ophnet_ray.train.heartbeat import BEAT_S
from ophnet_ray.tune.trial import Trial

PULSE_FILE = "pulse"
SILENT_S = 60.0
"""Seconds without a beat that are not worth a word: a network's file system shows it late."""

logger = logging.getLogger(__name__)


@contextmanager
def keep_pulse(folder: Path) -> Iterator[None]:
    """Touch the pulse in the folder of a trial every ``BEAT_S`` seconds, and delete it at last.

    An error of the disk is logged: the trial goes on without a pulse.
    """
    file, is_over = folder / PULSE_FILE, threading.Event()
    with _logged_errors():
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def beat() -> None:
        while not is_over.wait(BEAT_S):
            with _logged_errors():  # the disk may come back
                file.touch()

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        with _logged_errors():
            file.unlink(missing_ok=True)


def delete_pulse(folder: Path) -> None:
    """Delete the pulse that a killed process has left: it is heard to be lost, so not silent."""
    with _logged_errors():
        (folder / PULSE_FILE).unlink(missing_ok=True)


@contextmanager
def _logged_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("no pulse: %s", error)


class SilentTrials:
    """Watch over the pulses of trials: each silence is told once.

    A pulse that has not moved since the watch began is none: a killed process left it.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, int] = {}
        self._heard_s: dict[str, float] = {}

    def name_new(self, trials: Sequence[Trial]) -> Iterator[str]:
        """Yield a line for each trial that has fallen silent since the last call."""
        now_s = self._clock()
        for trial in trials:
            beat, where = _read_pulse(trial)
            if not beat:
                self._heard_s.pop(trial.name, None)
            elif beat != self._beats.get(trial.name, beat):
                self._heard_s[trial.name] = now_s
            self._beats[trial.name] = beat
            if now_s - self._heard_s.get(trial.name, now_s) > SILENT_S:
                del self._heard_s[trial.name]  # until it moves again
                yield (
                    f"trial {trial.name}: {where} does not answer (stopped, or the machine is "
                    "gone); where that process is ended, the trial starts again in another one"
                )


def _read_pulse(trial: Trial) -> tuple[int, str]:
    """Return the time of the last beat, nanoseconds, and whose it is; 0 where there is none.

    One that cannot be read now, e.g. because a network's file system has lost it, is none.
    """
    if trial.has_ended:
        return 0, ""
    file = trial.run.path / PULSE_FILE
    try:
        return file.stat().st_mtime_ns, file.read_text() or "its process"
    except OSError:
        return 0, ""
