"""Processes that do not outlive the tests."""

import shutil
import signal


def tied(command: list[str], signal_number: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command that also ends when the process that starts it dies, however it dies.

    An interrupted pytest-xdist kills its processes: their fixtures cannot be relied on to clean up.
    On systems without ``setpriv`` (util-linux), the command is returned as it is.
    """
    if setpriv := shutil.which("setpriv"):
        return [setpriv, "--pdeathsig", signal_number.name.removeprefix("SIG"), *command]
    return command
