"""Folds side by side: each trains in a process of its own, so many of them at a time.

Signals are heard by a main thread alone, and a log belongs to a process: so no threads. A process
ends with the one that started it, however that ends, after a checkpoint where it can write one.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import ReportedError, StoppedError, TrainingError, UserError, one_line
from ophnet_ray.signals import (
    EXIT_INTERRUPTED,
    StopRequest,
    Terminated,
    blocked_signals,
    repeats_ignored,
    stop_on_signals,
    terminate_on_signals,
    unblock_signals,
)
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.train.driver import TrainingResult, train

POLL_S = 0.1
"""Time until a signal is passed on: after SIGHUP a process must not print to the terminal."""
SAME_SIGNAL_S = 2.0
"""Time in which a process that was signalled itself takes the copy of its parent for the same."""
END_TIMEOUT_S = 10.0
"""Time for a process to end after its outcome or a second signal, before it is killed."""
AT_ONCE = "at once, without a new checkpoint"

logger = logging.getLogger(__name__)

TrainFold = Callable[[Config, Console], TrainingResult]
Outcome = TrainingResult | ReportedError
"""Answer of a fold, or why there is none."""


@dataclass(frozen=True)
class _Running:
    """A fold in training: its number, its process, and the end of the pipe for its outcome."""

    fold: int
    process: Any
    pipe: Connection


def train_side_by_side(
    configs: Mapping[int, Config],
    at_once: int,
    console: Console,
    train_fold: TrainFold = train,
) -> dict[int, Outcome]:
    """Train folds in processes; one that fails is named at once, and the others go on.

    Wrong input lets no further fold start until a fold has shown that the input is right: it would
    be that of the other folds, too. A signal is passed on to the processes: they write checkpoints
    and stop.

    Args:
        configs: Settings of the run of each fold, by its number.
        at_once: Folds that train simultaneously, at most.
        console: Notices for the user; the lines of each fold begin with its number.
        train_fold: Trains one fold; a function of a module, for the other process to find.

    Returns:
        The outcome of each fold that was started.
    """
    waiting, running = list(configs), list[_Running]()
    outcomes: dict[int, Outcome] = {}
    with stop_on_signals() as request, _ended_at_last(running, request):
        told = False
        while waiting or running:
            is_wrong = is_wrong_for_all(outcomes)
            if request.signal_name or (is_wrong and not running):
                waiting.clear()
            # after wrong input, the folds that train may still show that it was one fold's alone
            while waiting and len(running) < at_once and not is_wrong:
                fold = waiting.pop(0)
                console.say(f"fold {fold} of {len(configs)} starts")
                running.append(_start(fold, configs[fold], train_fold))
            if request.signal_name and not told:
                told = True
                _pass_on(signal.Signals[request.signal_name], running)
            ready = wait([each.pipe for each in running], timeout=POLL_S)
            for each in [each for each in running if each.pipe in ready]:
                outcomes[each.fold] = outcome = _receive(each, request)
                running.remove(each)
                if isinstance(outcome, ReportedError) and not isinstance(outcome, StoppedError):
                    console.warn(f"fold {each.fold} of {len(configs)}: {outcome}")
    if request.signal_name and not any(isinstance(o, StoppedError) for o in outcomes.values()):
        raise StoppedError("between the folds", request.exit_code)
    return outcomes


def is_wrong_for_all(outcomes: Mapping[int, Outcome]) -> bool:
    """Return True if every fold so far has refused its input: none has shown that it is right."""
    return bool(outcomes) and all(isinstance(each, UserError) for each in outcomes.values())


def describe_disk_error(error: OSError) -> str:
    """Return an error of a disk or a bucket in one line."""
    is_described = isinstance(error, StorageError)
    return str(error) if is_described else f"{type(error).__name__}: {one_line(error)}"


def _start(fold: int, config: Config, train_fold: TrainFold) -> _Running:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_fold, args=(fold, config, train_fold, sender), name=f"fold {fold}"
    )
    # its first start in a process unblocks signals
    resource_tracker.ensure_running()
    with blocked_signals():  # until the process can hear them
        process.start()
    sender.close()  # the pipe ends with the process
    return _Running(fold, process, receiver)


def _run_fold(fold: int, config: Config, train_fold: TrainFold, pipe: Connection) -> None:
    """Train a fold in this process, and send the outcome as plain values."""
    os.setpgid(0, 0)  # Ctrl-C on the terminal reaches the parent, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with repeats_ignored(SAME_SIGNAL_S):
        message = _find_outcome(config, train_fold, Console(f"fold {fold}: "))
        with suppress(BrokenPipeError):  # the parent was killed
            pipe.send(message)


def _find_outcome(
    config: Config, train_fold: TrainFold, console: Console
) -> tuple[str, TrainingResult | str, int]:
    try:
        with terminate_on_signals():
            unblock_signals()
            return "result", train_fold(config, console), 0
    except StoppedError as error:
        return "stopped", str(error), error.exit_code
    except UserError as error:
        return "wrong input", str(error), 0
    except ReportedError as error:
        return "failed", str(error), 0
    except OSError as error:
        # for the log alone: an error would go to the terminal where none is open yet
        logger.info("the run broke off", exc_info=True)
        return "failed", describe_disk_error(error), 0
    except (KeyboardInterrupt, Terminated) as error:
        exit_code = error.exit_code if isinstance(error, Terminated) else EXIT_INTERRUPTED
        return "stopped", AT_ONCE, exit_code


def _end_with_parent() -> None:
    """Ask this process to stop when the one that started it has ended, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _receive(running: _Running, request: StopRequest) -> Outcome:
    """Return the outcome of a process that has sent one, or has ended without."""
    try:
        kind, answer, exit_code = running.pipe.recv()
    except EOFError:
        _end([running], END_TIMEOUT_S)
        code = running.process.exitcode
        if request.signal_name:
            text = f"without a new checkpoint (its process has ended with code {code})"
            return StoppedError(text, request.exit_code)
        return TrainingError(f"its process has ended with code {code}, without a word")
    _end([running], END_TIMEOUT_S)
    if isinstance(answer, TrainingResult):
        return answer
    if kind == "stopped":
        return StoppedError(answer, exit_code)
    return UserError(answer) if kind == "wrong input" else TrainingError(answer)


def _pass_on(number: signal.Signals, running: list[_Running]) -> None:
    for each in running:
        if each.process.is_alive():
            os.kill(each.process.pid, number)


@contextmanager
def _ended_at_last(running: list[_Running], request: StopRequest) -> Iterator[None]:
    """End the processes that are left, because a second signal or an error came."""
    try:
        yield
    finally:
        # not the signal that was passed on: that would be ignored as a copy
        is_passed = request.signal_name == "SIGTERM"
        _pass_on(signal.SIGUSR1 if is_passed else signal.SIGTERM, running)
        _end(running, END_TIMEOUT_S)


def _end(running: list[_Running], timeout_s: float) -> None:
    """Wait for processes that are about to end; kill those that do not in time."""
    end_s = time.monotonic() + timeout_s
    for each in running:
        each.process.join(max(end_s - time.monotonic(), 0))
        if each.process.is_alive():
            each.process.kill()
            each.process.join()
