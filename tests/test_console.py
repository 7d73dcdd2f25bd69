"""Output for the user: lines of stages, watched work, the answer."""

import logging
import threading

import pytest

from ophnet_ray.console import LINES_PER_STAGE, Console, log_to, print_answer, run_watched

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
