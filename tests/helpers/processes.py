"""Processes that do not outlive the tests."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers.paths import ROOT

READY = """
import sys
print("ready", flush=True)
sys.stdin.readline()
"""
"""Line of a program of ``start_ready``, after its imports: wait for the word to begin."""


def tied(command: list[str], signal_number: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command that also ends when the process that starts it dies, however it dies.

    An interrupted pytest-xdist kills its processes: their fixtures cannot be relied on to clean up.
    On systems without ``setpriv`` (util-linux), the command is returned as it is.
    """
    if setpriv := shutil.which("setpriv"):
        return [setpriv, "--pdeathsig", signal_number.name.removeprefix("SIG"), *command]
    return command


def start_ready(*programs: tuple[str, ...]) -> list[subprocess.Popen]:
    """Start Python programs that hold ``READY``, each with its arguments; return once all wait.

    A line on its standard input lets each of them begin.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for program in programs
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    return processes


@contextmanager
def killed_after(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Kill a process, if it still runs, when the context ends; its pipes are closed."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
