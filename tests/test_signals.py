"""Signals: the first asks, the second ends, and Ray's own handlers do not stay."""

import os
import signal

import pytest

from ophnet_ray.cli.arguments import run_program
from ophnet_ray.errors import StoppedError
from ophnet_ray.signals import Terminated, kept_handlers, stop_on_signals

pytestmark = pytest.mark.unit


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "second", "exit_code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, Terminated, 143),
        (signal.SIGUSR1, Terminated, 143),
    ],
)
def test_the_first_signal_is_a_request_and_the_second_ends(number, second, exit_code):
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert request.signal_name == ""
        send(number)
        assert request.signal_name == number.name
        assert request.exit_code == exit_code
        with pytest.raises(second):
            send(number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_outside_of_training_ends_the_program_with_one_line(number, capsys):
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: send(number))
    assert ended.value.code == 143
    assert capsys.readouterr().err == (
        f"ended by {number.name}; the same command resumes where it stopped\n"
    )


def test_a_program_that_stopped_as_asked_says_where(capsys):
    def main():
        raise StoppedError("after step 7 of epoch 3", 143)

    with pytest.raises(SystemExit) as ended:
        run_program(main)
    assert ended.value.code == 143
    line = "stopped after step 7 of epoch 3; the same command resumes there\n"
    assert capsys.readouterr().err == line


def test_a_library_that_replaces_a_handler_does_not_keep_it():
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before
