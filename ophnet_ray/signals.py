"""Signals that ask a program to stop: Ctrl-C, SIGTERM, SIGUSR1 (Slurm), SIGHUP (closed terminal).

While a run trains, the first such signal is a request: training writes a checkpoint and stops. The
second one, or one at any other time, ends the program at once. Slurm sends SIGUSR1 before the time
is up. Below ``nohup``, SIGHUP is ignored.
"""

import math
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType

from ophnet_ray.standard_streams import discard_output

Handler = Callable[[int, FrameType | None], None]

EXIT_INTERRUPTED = 128 + signal.SIGINT
_TERMINATING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_ALL = (signal.SIGINT, *_TERMINATING)
_EXIT_CODES = {"SIGINT": EXIT_INTERRUPTED, "SIGHUP": 128 + signal.SIGHUP}
_EXIT_TERMINATED = 128 + signal.SIGTERM
_OUTPUTS = (1, 2)


class Terminated(BaseException):
    """A signal that ends the program now; as ``KeyboardInterrupt``, no ``Exception``.

    Its text is the signal's name.
    """

    @property
    def exit_code(self) -> int:
        """The exit code of a program that the signal has ended."""
        return _exit_code(str(self))


@dataclass
class StopRequest:
    """The signal that asks to stop.

    Attributes:
        signal_name: For example ``SIGTERM``; empty as long as there was none.
    """

    signal_name: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code of a program that has stopped as it was asked to."""
        return _exit_code(self.signal_name)


@contextmanager
def terminate_on_signals() -> Iterator[None]:
    """Raise ``Terminated`` in the main thread on SIGTERM, SIGUSR1 and SIGHUP."""

    def terminate(number: int, _frame: FrameType | None) -> None:
        _leave_terminal(number)
        raise Terminated(signal.Signals(number).name)

    with _handled(dict.fromkeys(_TERMINATING, terminate)):
        yield


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first signal into a request; the second one raises, as outside of this context.

    In other threads than the main one nothing is changed: Python handles signals only there.
    """
    request = StopRequest()

    def remember(number: int, _frame: FrameType | None) -> None:
        _leave_terminal(number)
        name = signal.Signals(number).name
        if request.signal_name:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(name)
        request.signal_name = name

    with _handled(dict.fromkeys(_ALL, remember)):
        yield request


@contextmanager
def repeats_ignored(within_s: float) -> Iterator[None]:
    """Ignore a signal that follows on the same one within some seconds; SIGINT raises as ever.

    For a process that its parent passes signals on to: where all processes of a job are signalled,
    it gets its own, too, and the two together are one request.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    token = _heard.set(_Heard(within_s))
    try:
        with _handled({signal.SIGINT: interrupt}):
            yield
    finally:
        _heard.reset(token)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold signals back; a process that is started inside holds them back until it unblocks them.

    They are heard at the end of the context, none is lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Hear the signals that came since the process was started inside ``blocked_signals``."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


@dataclass
class _Heard:
    """The last signal that was heard, when, and the seconds in which another one is the same."""

    within_s: float
    number: int = 0
    at_s: float = -math.inf

    def is_repeated(self, number: int) -> bool:
        now_s = time.monotonic()
        if number == self.number and now_s - self.at_s < self.within_s:
            return True
        self.number, self.at_s = number, now_s
        return False


_heard: ContextVar[_Heard | None] = ContextVar("heard", default=None)
"""What was heard inside ``repeats_ignored``; outside, each signal counts."""


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the handlers that the context replaces, as ``ray.init`` does SIGTERM's.

    Processes that are started in the context ignore SIGHUP: a terminal that is closed sends it to
    all processes below it, and a program needs its Ray to write a checkpoint.
    """
    before = {number: signal.getsignal(number) for number in _ALL}
    try:
        if _is_main_thread():
            # a handler does not pass on to programs that are started; that a signal is ignored does
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    if not _is_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    if before.get(signal.SIGHUP) is signal.SIG_IGN:  # by nohup: the program outlives its terminal
        del before[signal.SIGHUP]
    try:
        for number in before:
            signal.signal(number, _once(handlers[number]))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _once(handler: Handler) -> Handler:
    def hear(number: int, frame: FrameType | None) -> None:
        heard = _heard.get()
        if heard is None or not heard.is_repeated(number):
            handler(number, frame)

    return hear


def _leave_terminal(number: int) -> None:
    """After SIGHUP, print to nowhere: each line to a terminal that is gone would be an error."""
    if number != signal.SIGHUP:
        return
    for output in _OUTPUTS:
        if stat.S_ISCHR(os.fstat(output).st_mode):
            discard_output(output)


def _exit_code(name: str) -> int:
    return _EXIT_CODES.get(name, _EXIT_TERMINATED)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
