"""Output for the user: lines of stages, watched work, the answer."""

import logging
import signal
import subprocess
import sys
import threading

import pytest

from ophnet_ray.console import LINES_PER_STAGE, Console, log_to, print_answer, run_watched
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit


def test_without_a_terminal_a_stage_prints_a_few_lines_on_stderr(capsys):
    console = Console()
    with console.stage("train", 100) as stage:
        for done in range(101):
            stage.update(done, "epochs", detail=", step 3/4")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert 1 <= len(lines) <= LINES_PER_STAGE + 1
    assert lines[-1] == "train    100/100  epochs"


def test_notices_go_to_stderr_and_the_answer_to_stdout(capsys):
    console = Console()
    console.say("[bold] is no markup")
    console.warn("careful")
    print_answer({"run": "runs/x", "val_acc": 0.5})
    printed = capsys.readouterr()
    assert printed.err == "[bold] is no markup\nwarning: careful\n"
    assert printed.out == "run:     runs/x\nval_acc: 0.5\n"


def test_watched_work_shows_its_state_until_it_returns():
    shown = threading.Event()

    def work():
        assert threading.current_thread() is not threading.main_thread()
        assert shown.wait(timeout=60)
        return 7

    assert run_watched(work, shown.set, interval_s=0.01) == 7


def test_an_error_of_watched_work_is_raised():
    def work():
        raise KeyError("name")

    with pytest.raises(KeyError, match="name"):
        run_watched(work, lambda: None, interval_s=0.01)


WORK_IN_TORCH = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor
import torch
from ophnet_ray.cli.arguments import run_program
from ophnet_ray.console import run_watched
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.signals import stop_on_signals

def work():
    # Python waits for such a thread, e.g. one that asks a Ray which has gone
    ThreadPoolExecutor().submit(time.sleep, 600)
    value = torch.randn(256, 256, requires_grad=True)
    while True:
        (value @ value).sum().backward()

def show():
    print(request.signal_name or "works", flush=True)
    if sys.argv[1:]:
        raise {"TrainingError": TrainingError, "UserError": UserError}[sys.argv[1]]("the cause")

def main():
    global request
    with stop_on_signals() as request:
        run_watched(work, show, 0.05)

run_program(main)
"""


def test_a_second_signal_ends_a_program_that_works_in_torch_with_its_exit_code():
    with subprocess.Popen(
        [sys.executable, "-c", WORK_IN_TORCH],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for expected in ("works", "SIGTERM"):
                assert any(line.strip() == expected for line in process.stdout)
                process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()  # else a failure waits for the end of its threads
    assert errors == "ended by SIGTERM; the same command resumes where it stopped\n"
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("error", "says", "exit_code"),
    [("TrainingError", "training failed", 1), ("UserError", "error", 2)],
)
def test_an_error_ends_a_program_that_works_in_torch_with_its_exit_code(error, says, exit_code):
    done = subprocess.run(
        [sys.executable, "-c", WORK_IN_TORCH, error],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == f"{says}: the cause\n"
    assert done.returncode == exit_code


def test_a_log_file_takes_records_and_warnings(tmp_path):
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        log_to(tmp_path / "driver.log")
        logging.getLogger("some.library").info("a record")
        root.handlers[0].close()
    finally:
        root.handlers, level = before
        root.setLevel(level)
        logging.captureWarnings(False)
    assert "INFO some.library: a record" in (tmp_path / "driver.log").read_text()
