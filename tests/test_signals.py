"""Signals: the first asks, the second ends, and Ray's own handlers do not stay."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from ophnet_ray.cli.arguments import run_program
from ophnet_ray.errors import StoppedError
from ophnet_ray.signals import Terminated, kept_handlers, repeats_ignored, stop_on_signals

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def without_nohup():
    """A terminal that can close, also where the tests run below ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "second", "exit_code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, Terminated, 143),
        (signal.SIGUSR1, Terminated, 143),
        (signal.SIGHUP, Terminated, 129),
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


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_outside_of_training_ends_the_program_with_one_line(number, exit_code, capsys):
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: send(number))
    assert ended.value.code == exit_code
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


def test_what_was_heard_before_or_elsewhere_makes_no_signal_a_repetition():
    with stop_on_signals() as before:
        send(signal.SIGTERM)
        with repeats_ignored(3600), stop_on_signals() as first:
            send(signal.SIGTERM)
            send(signal.SIGTERM)  # would end the program
        with repeats_ignored(3600), stop_on_signals() as second:
            send(signal.SIGTERM)
    names = [request.signal_name for request in (before, first, second)]
    assert names == ["SIGTERM"] * 3


def test_a_library_that_replaces_a_handler_does_not_keep_it():
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


STOP_WHEN_ASKED = """
import sys, time
from pathlib import Path
from ophnet_ray.cli.arguments import run_program
from ophnet_ray.console import Console
from ophnet_ray.errors import StoppedError
from ophnet_ray.signals import stop_on_signals

def main():
    console = Console()
    with stop_on_signals() as request:
        console.say("ready")
        while not request.signal_name:
            time.sleep(0.01)
        console.say("writes a checkpoint")
        print("as it was asked to", flush=True)
        Path(sys.argv[1]).touch()
    raise StoppedError("after step 7", request.exit_code)

run_program(main)
"""


def test_a_program_whose_terminal_is_closed_writes_a_checkpoint_first(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", STOP_WHEN_ASKED, str(checkpoint)])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert checkpoint.exists()


def test_below_nohup_a_hang_up_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            send(signal.SIGHUP)
        assert request.signal_name == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_that_is_started_with_ray_s_own_handlers_outlives_the_terminal():
    with kept_handlers():
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.send_signal(signal.SIGHUP)
    assert child.communicate(b"alive")[0] == b"alive"
