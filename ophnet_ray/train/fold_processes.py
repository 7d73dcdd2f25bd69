"""Folds side by side: each trains in a process of its own, so many of them at a time.

Signals are heard by a main thread alone, and a log belongs to a process: so no threads. A process
ends with the one that started it, however that ends, after a checkpoint where it can write one.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import ReportedError, StoppedError, TrainingError, UserError
from ophnet_ray.signals import StopRequest, Terminated, stop_on_signals, terminate_on_signals
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.train.driver import TrainingResult, train

POLL_S = 0.5
END_TIMEOUT_S = 10.0
"""Time for a process to end after a second signal, before it is killed."""

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

    Wrong input, which would be that of the other folds, too, lets no further fold start. A signal
    is passed on to the processes: they write checkpoints and stop.

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
    with stop_on_signals() as request, _ended_at_last(running):
        told = False
        while waiting or running:
            if _starts_no_more(request, outcomes):
                waiting.clear()
            while waiting and len(running) < at_once:
                fold = waiting.pop(0)
                console.say(f"fold {fold} of {len(configs)} starts")
                running.append(_start(fold, configs[fold], train_fold))
            if request.signal_name and not told:
                told = True
                _pass_on(request.signal_name, running)
            ready = wait([each.pipe for each in running], timeout=POLL_S)
            for each in [each for each in running if each.pipe in ready]:
                outcomes[each.fold] = outcome = _receive(each)
                running.remove(each)
                if isinstance(outcome, ReportedError) and not isinstance(outcome, StoppedError):
                    console.warn(f"fold {each.fold} of {len(configs)}: {outcome}")
    if request.signal_name and not any(isinstance(o, StoppedError) for o in outcomes.values()):
        raise StoppedError("between the folds", request.exit_code)
    return outcomes


def _starts_no_more(request: StopRequest, outcomes: Mapping[int, Outcome]) -> bool:
    is_wrong = any(isinstance(outcome, UserError) for outcome in outcomes.values())
    return bool(request.signal_name) or is_wrong


def _start(fold: int, config: Config, train_fold: TrainFold) -> _Running:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_run_fold, args=(fold, config, train_fold, sender), name=f"fold {fold}"
    )
    process.start()
    sender.close()  # the pipe ends with the process
    return _Running(fold, process, receiver)


def _run_fold(fold: int, config: Config, train_fold: TrainFold, pipe: Connection) -> None:
    """Train a fold in this process, and send the outcome as plain values."""
    os.setpgid(0, 0)  # Ctrl-C on the terminal reaches the parent, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with terminate_on_signals():
            pipe.send(("result", train_fold(config, Console(f"fold {fold}: ")), 0))
    except StoppedError as error:
        pipe.send(("stopped", str(error), error.exit_code))
    except UserError as error:
        pipe.send(("wrong input", str(error), 0))
    except (ReportedError, StorageError) as error:
        pipe.send(("failed", str(error), 0))
    except KeyboardInterrupt:
        pipe.send(("stopped", "before it trained", 128 + signal.SIGINT))
    except Terminated as error:
        pipe.send(("stopped", "before it trained", error.exit_code))


def _end_with_parent() -> None:
    """Ask this process to stop when the one that started it has ended, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _receive(running: _Running) -> Outcome:
    """Return the outcome of a process that has sent one, or has ended without."""
    try:
        kind, answer, exit_code = running.pipe.recv()
    except EOFError:
        running.process.join()
        return TrainingError(
            f"its process has ended with code {running.process.exitcode}, without a word"
        )
    running.process.join()
    if isinstance(answer, TrainingResult):
        return answer
    if kind == "stopped":
        return StoppedError(answer, exit_code)
    return UserError(answer) if kind == "wrong input" else TrainingError(answer)


def _pass_on(name: str, running: list[_Running]) -> None:
    number = signal.SIGINT if name == "SIGINT" else signal.SIGTERM
    for each in running:
        if each.process.is_alive():
            os.kill(each.process.pid, number)


@contextmanager
def _ended_at_last(running: list[_Running]) -> Iterator[None]:
    """End the processes that are left, because a second signal or an error came."""
    try:
        yield
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.join(END_TIMEOUT_S)
            if each.process.is_alive():
                each.process.kill()
