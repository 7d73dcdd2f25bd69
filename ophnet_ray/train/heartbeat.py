"""Heartbeat of a train worker: its position in training, sent while its main thread is at work."""

import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

BEAT_S = 2.0
UNHEARD_S = 15.0
"""Seconds without a heartbeat after which a worker counts as stopped or gone."""
_TIME_OUT = re.compile("time[d -]*out", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Position of a worker in training, in the order of time; epoch and step count from 1.

    ``phase``: "training" comes before "validation".
    """

    epoch: int
    phase: str
    step: int

    def __str__(self) -> str:
        """Return the position as a part of a sentence."""
        if self == START:
            return "the preparation of the first step"
        return f"{self.phase} step {self.step} of epoch {self.epoch}"


START = Position(0, "training", 0)
"""Position of a worker that has not begun a step."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """Knowledge of a worker, from its heartbeats.

    Attributes:
        position: Its position.
        heard_s: Seconds since the last heartbeat.
        moved_s: Seconds since the position changed.
        where: Its process and machine, in words.
    """

    position: Position
    heard_s: float
    moved_s: float
    where: str


class Heartbeat:
    """Thread of a worker that sends the worker's position every ``BEAT_S`` seconds.

    The main thread may wait for another worker inside a collective, which no Python code leaves.

    Args:
        status: A ``TrainingStatus`` or ``RemoteStatus``; None where nobody watches.
        rank: Rank of the worker.
    """

    def __init__(self, status: Any, rank: int) -> None:
        self._status, self._rank = status, rank
        self._where = f"process {os.getpid()} on {socket.gethostname()}"
        self._is_over = threading.Event()
        self.position = START

    def __enter__(self) -> Self:
        """Start the thread; a later fit of the same worker starts another one."""
        self._is_over = threading.Event()
        if self._status is not None:
            send = threading.Thread(
                target=self._send, args=[self._is_over], name="heartbeat", daemon=True
            )
            send.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._is_over.set()

    def _send(self, is_over: threading.Event) -> None:
        # the first one at once: a worker that is never heard would not be missed
        self._beat()
        while not is_over.wait(BEAT_S):
            self._beat()

    def _beat(self) -> None:
        self._status.beat(self._rank, self.position, self._where)


def name_silence(pulses: Mapping[int, Pulse], longest_s: float) -> str:
    """Say which worker holds up the others; empty while one of them moves.

    Args:
        pulses: Knowledge of the workers, by rank.
        longest_s: Seconds without any move that are not worth a word.
    """
    if not pulses or min(pulse.moved_s for pulse in pulses.values()) < longest_s:
        return ""
    silent_s = min(pulse.moved_s for pulse in pulses.values())
    gone = {rank: pulse for rank, pulse in pulses.items() if pulse.heard_s > UNHEARD_S}
    first = min(pulse.position for pulse in pulses.values())
    behind = {rank: pulse for rank, pulse in pulses.items() if pulse.position == first}
    text = f"no step for {silent_s:.0f} s: "
    if gone:
        return f"{text}{_name_gone(gone)}, {first}"
    if len(behind) < len(pulses):
        return f"{text}the others wait for {_name_workers(behind)} in {first}"
    return f"{text}all workers are in {first}"


def name_failures(failures: Mapping[int, str], pulses: Mapping[int, Pulse]) -> list[str]:
    """Return a line per failed worker; one line if one does not answer, and the others waited.

    Args:
        failures: Causes of the failed workers, by rank.
        pulses: Knowledge of the workers, by rank.
    """
    gone = {rank: pulse for rank, pulse in pulses.items() if pulse.heard_s > UNHEARD_S}
    waited = [rank for rank, cause in failures.items() if _TIME_OUT.search(cause)]
    last = max((pulses[rank].position for rank in waited if rank in pulses), default=None)
    behind = {
        rank: pulse
        for rank, pulse in pulses.items()
        if rank not in failures and last is not None and pulse.position < last
    }
    if gone:
        reason = _name_gone(gone)
    elif behind:
        first = min(pulse.position for pulse in behind.values())
        reason = f"{_name_workers(behind)} did not leave {first}"
    else:
        return [f"train worker {rank} failed ({cause})" for rank, cause in failures.items()]
    rank, cause = next(iter(failures.items()))
    return [f"{reason}; {'' if rank in gone else f'train worker {rank} waited in vain: '}{cause}"]


def _name_gone(gone: Mapping[int, Pulse]) -> str:
    verb = "does" if len(gone) == 1 else "do"
    return f"{_name_workers(gone)} {verb} not answer (stopped, or the machine is gone)"


def _name_workers(pulses: Mapping[int, Pulse]) -> str:
    names = [f"{rank} ({pulses[rank].where})" for rank in sorted(pulses)]
    return f"train worker{'s' if len(names) > 1 else ''} {', '.join(names)}"
