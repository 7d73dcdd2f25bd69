"""Standard streams of the process: closed ones, and those whose reader has left."""

import os
import sys
from typing import NoReturn

from ophnet_ray.errors import UserError

EXIT_BROKEN_PIPE = 141
"""Exit code of a program whose output nobody reads any more, as a shell gives it for SIGPIPE."""
_STREAMS = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Open the standard streams that the caller has closed (``>&-``), to nowhere.

    Else the next file that is opened gets the number, and the messages of compiled code; likewise
    in the processes that this one starts.
    """
    for number in range(len(_STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(descriptor, True)  # as the standard streams of a process are
    for name in _STREAMS[1:]:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def write_stdout(text: str = "") -> None:
    """Write a text, and what was printed before, to stdout.

    Raises:
        BrokenPipeError: Nobody reads it.
        UserError: It cannot be written, e.g. because the disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python flushes once more at the end
        discard_output(sys.stdout.fileno())
        raise UserError(f"the answer cannot be written to stdout: {error.strerror}") from error


def leave_broken_pipe() -> NoReturn:
    """End the program, without a word, because nobody reads its output.

    Raises:
        SystemExit: Code 141.
    """
    # Python flushes once more at the end, see the note on SIGPIPE in its module signal
    for stream in (sys.stdout, sys.stderr):
        discard_output(stream.fileno())
    raise SystemExit(EXIT_BROKEN_PIPE) from None


def discard_output(output: int) -> None:
    """Let what is written to a file descriptor go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
