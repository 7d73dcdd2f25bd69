"""Folds side by side: processes at the same time, failures and signals; nothing is trained here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import StoppedError, TrainingError, UserError
from ophnet_ray.signals import stop_on_signals
from ophnet_ray.train.driver import TrainingResult
from ophnet_ray.train.fold_processes import train_side_by_side
from tests.helpers.paths import ROOT
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit


def make_configs(folder, num_folds):
    base = Config().replace_flat(storage_path=str(folder), folds=num_folds)
    return {fold: base.replace_flat(fold=fold) for fold in range(1, num_folds + 1)}


def mark(config, word):
    """Leave a file that says what the process of a fold does; return the folder."""
    folder = Path(config.run.storage_path)
    (folder / f"{word}{config.data.fold}").write_text(str(os.getpid()))
    return folder


def meet(config, console):
    """Return once another fold is there at the same time; the second one fails then."""
    folder = mark(config, "here")
    if config.data.fold <= 2:
        wait_until(lambda: len(list(folder.glob("here[12]"))) == 2, "two folds at once", 30)
    console.say("trained")
    if config.data.fold == 2:
        raise TrainingError("the loss is not finite")
    return TrainingResult("model.ckpt", folder, str(folder), 1, 1, {})


def refuse(config, console):
    """Refuse the input."""
    mark(config, "here")
    raise UserError("--lr -1: must be more than 0")


def refuse_the_first(config, console):
    """Refuse the input of fold 1; the others get further."""
    if config.data.fold == 1:
        raise UserError("the run is being trained by another process")
    time.sleep(0.5)
    raise TrainingError("the loss is not finite")


@pytest.fixture(autouse=True)
def hangup():
    """A closed terminal is heard, also where the tests run below ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def crash(config, console):
    """End without a word."""
    os._exit(7)


def wait_for_signal(config, console):
    """Stop, as a training does, when a signal has come."""
    with stop_on_signals() as request:
        mark(config, "here")
        wait_until(lambda: request.signal_name, "a signal", 60)
        time.sleep(0.5)  # the checkpoint is written
    mark(config, "stopped")
    raise StoppedError("after epoch 1", request.exit_code)


def test_folds_train_at_the_same_time_and_one_that_fails_is_named(tmp_path, capfd):
    outcomes = train_side_by_side(make_configs(tmp_path, 3), 2, Console(), meet)
    assert isinstance(outcomes[1], TrainingResult)
    assert isinstance(outcomes[3], TrainingResult)
    assert str(outcomes[2]) == "the loss is not finite"
    told = capfd.readouterr().err
    assert "fold 3: trained" in told
    assert "warning: fold 2 of 3: the loss is not finite" in told


def test_wrong_input_starts_no_further_fold(tmp_path):
    outcomes = train_side_by_side(make_configs(tmp_path, 3), 1, Console(), refuse)
    assert {fold: type(outcome) for fold, outcome in outcomes.items()} == {1: UserError}


def test_wrong_input_of_one_fold_alone_does_not_end_the_others(tmp_path):
    outcomes = train_side_by_side(make_configs(tmp_path, 3), 2, Console(), refuse_the_first)
    kinds = {fold: type(outcome) for fold, outcome in sorted(outcomes.items())}
    assert kinds == {1: UserError, 2: TrainingError, 3: TrainingError}


def test_a_process_that_dies_is_a_fold_that_failed(tmp_path):
    outcomes = train_side_by_side(make_configs(tmp_path, 2), 2, Console(), crash)
    assert all("ended with code 7" in str(outcome) for outcome in outcomes.values())
    assert {type(outcome) for outcome in outcomes.values()} == {TrainingError}


PROGRAM = """
import sys
import time
from pathlib import Path
from ophnet_ray.console import Console
from ophnet_ray.train.fold_processes import train_side_by_side
from tests.train.test_fold_processes import make_configs, wait_for_signal

outcomes = train_side_by_side(make_configs(Path(sys.argv[1]), 3), 2, Console(), wait_for_signal)
print(*(f"{fold}: {error} {error.exit_code}" for fold, error in sorted(outcomes.items())), sep="; ")
"""


@pytest.mark.parametrize(
    ("number", "is_for_all"),
    [
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
        (signal.SIGTERM, True),
        (signal.SIGKILL, False),
    ],
)
def test_a_signal_stops_the_folds_even_one_that_the_parent_does_not_hear(
    tmp_path, number, is_for_all
):
    """``is_for_all``: to all processes, as job managers send it; the parent passes it on, too."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    wait_until(lambda: len(list(tmp_path.glob("here*"))) == 2, "two folds train", 60)
    pids = [int(file.read_text()) for file in tmp_path.glob("here*")]
    for pid in [*pids, parent.pid] if is_for_all else [parent.pid]:
        os.kill(pid, number)
    told, _ = parent.communicate(timeout=60)
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "the folds have ended", 60)
    assert sorted(file.name for file in tmp_path.glob("stopped*")) == ["stopped1", "stopped2"]
    if number != signal.SIGKILL:
        code = 128 + number
        assert told.strip() == f"1: after epoch 1 {code}; 2: after epoch 1 {code}"


def die_when_asked(config, console):
    """End without a word, once this process has asked its parent to stop."""
    with stop_on_signals():
        os.kill(os.getppid(), signal.SIGHUP)
        time.sleep(1)
        os._exit(7)


def fail_on_disk(config, console):
    """Fail as a folder does that went away."""
    raise FileNotFoundError(2, "No such file or directory", "runs/x")


def test_a_fold_that_dies_after_a_request_has_stopped_without_a_checkpoint(tmp_path):
    outcomes = train_side_by_side(make_configs(tmp_path, 1), 1, Console(), die_when_asked)
    assert isinstance(outcomes[1], StoppedError)
    assert "without a new checkpoint (its process has ended with code 7)" in str(outcomes[1])
    assert outcomes[1].exit_code == 129


def test_an_error_of_the_disk_is_one_line(tmp_path, capfd):
    outcomes = train_side_by_side(make_configs(tmp_path, 1), 1, Console(), fail_on_disk)
    assert str(outcomes[1]).startswith("FileNotFoundError: [Errno 2] No such file")
    assert "Traceback" not in capfd.readouterr().err
