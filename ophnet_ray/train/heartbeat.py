"""Heartbeat of a train worker: its position in training, sent while its main thread is at work."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

BEAT_S = 2.0
UNHEARD_S = 15.0
"""Seconds without a heartbeat after which a worker counts as stopped or gone."""


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
        return f"{self.phase} step {self.step} of epoch {self.epoch}"


@dataclass(frozen=True, slots=True)
class Pulse:
    """Knowledge of a worker, from its heartbeats.

    Attributes:
        position: Its position.
        heard_s: Seconds since the last heartbeat.
        moved_s: Seconds since the position changed.
    """

    position: Position
    heard_s: float
    moved_s: float


class Heartbeat:
    """Thread of a worker that sends the worker's position every ``BEAT_S`` seconds.

    The main thread may wait for another worker inside a collective, which no Python code leaves.

    Args:
        status: Handle of a ``TrainingStatus``; None where nobody watches.
        rank: Rank of the worker.
    """

    def __init__(self, status: Any, rank: int) -> None:
        self._status, self._rank = status, rank
        self._is_over = threading.Event()
        self.position: Position | None = None

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
        while not is_over.wait(BEAT_S):
            if self.position is not None:
                self._status.beat.remote(self._rank, self.position)


def name_silence(pulses: Mapping[int, Pulse], longest_s: float) -> str:
    """Say which worker holds up the others; empty while one of them moves.

    Args:
        pulses: Knowledge of the workers, by rank.
        longest_s: Seconds without any move that are not worth a word.
    """
    if not pulses or min(pulse.moved_s for pulse in pulses.values()) < longest_s:
        return ""
    silent_s = min(pulse.moved_s for pulse in pulses.values())
    gone = [rank for rank, pulse in pulses.items() if pulse.heard_s > UNHEARD_S]
    first = min(pulse.position for pulse in pulses.values())
    behind = [rank for rank, pulse in pulses.items() if pulse.position == first]
    text = f"no step for {silent_s:.0f} s: "
    if gone:
        return f"{text}{_name_workers(gone)} not answer (stopped, or the machine is gone), {first}"
    if len(behind) < len(pulses):
        return f"{text}the others wait for {_name_workers(behind, verb='')} in {first}"
    return f"{text}all workers are in {first}"


def _name_workers(ranks: list[int], verb: str = " do") -> str:
    if len(ranks) == 1:
        return f"train worker {ranks[0]}{verb and ' does'}"
    return f"train workers {', '.join(map(str, sorted(ranks)))}{verb}"
