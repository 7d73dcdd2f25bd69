"""End of a decode process whose codec does not return.

A loop in compiled code lets no Python code run, no signal handler either. A thread of the
interpreter (``faulthandler``) ends the process instead; whoever started it sees a crash.
"""

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager

DECODER_CRASHED = "the decoder crashed"
"""Reason of a video at which processes end."""
MAX_SILENCE_S = 600.0
"""Longest time between two packets: more than all attempts to read from a bucket take."""
_RENEW_S = 1.0
_STDERR = 2


class _Guard:
    """State of this process: the limit, and when the timer was started, if it runs."""

    limit_s: float | None = None
    started_s: float | None = None


@contextmanager
def end_hanging_process(limit_s: float = MAX_SILENCE_S) -> Iterator[None]:
    """End this process if a codec is silent for too long, for as long as the context lasts.

    Only processes whose end is survived may use it: those that decode for a run.
    """
    _Guard.limit_s = limit_s
    try:
        yield
    finally:
        _stop()
        _Guard.limit_s = None


@contextmanager
def codec_at_work() -> Iterator[None]:
    """Watch the codec for as long as the context lasts, if this process asked for it."""
    _start()
    try:
        yield
    finally:
        _stop()


@contextmanager
def codec_at_rest() -> Iterator[None]:
    """Stop the watch for as long as the context lasts: other work is done between two packets."""
    was_watched = _Guard.started_s is not None
    _stop()
    try:
        yield
    finally:
        if was_watched:
            _start()


def note_progress() -> None:
    """Start the time again: a comparison per packet, a new timer once per second."""
    if _Guard.started_s is None or time.monotonic() - _Guard.started_s > _RENEW_S:
        _start()


def _start() -> None:
    if _Guard.limit_s is not None:
        _Guard.started_s = time.monotonic()
        faulthandler.dump_traceback_later(_Guard.limit_s, exit=True, file=_STDERR)


def _stop() -> None:
    if _Guard.started_s is not None:
        _Guard.started_s = None
        faulthandler.cancel_dump_traceback_later()
