"""Signals that ask a program to stop: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends beforehand.

While a run trains, the first such signal is a request: training writes a checkpoint and stops. The
second one, or one at any other time, ends the program at once.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
_TERMINATING = (signal.SIGTERM, signal.SIGUSR1)


class Terminated(BaseException):
    """A signal that ends the program now; as ``KeyboardInterrupt``, no ``Exception``."""


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
        return EXIT_INTERRUPTED if self.signal_name == "SIGINT" else EXIT_TERMINATED


@contextmanager
def terminate_on_signals() -> Iterator[None]:
    """Raise ``Terminated`` in the main thread on SIGTERM and SIGUSR1."""

    def terminate(number: int, _frame: FrameType | None) -> None:
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
        name = signal.Signals(number).name
        if request.signal_name:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(name)
        request.signal_name = name

    with _handled(dict.fromkeys((signal.SIGINT, *_TERMINATING), remember)):
        yield request


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the handlers that the context replaces, as ``ray.init`` does SIGTERM's."""
    numbers = (signal.SIGINT, *_TERMINATING)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
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
    with kept_handlers():
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
