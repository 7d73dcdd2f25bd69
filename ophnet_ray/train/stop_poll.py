"""Question of the train workers whether to stop, which all ask together and answer alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the driver knows ``StopTraining``: it does without the seconds that this loads
    import lightning as L  # noqa: N812 - Lightning's own convention

INTERVAL_S = 2.0
"""Time between two questions. All workers wait for each other at one, for milliseconds."""
MAX_STEPS = 1000


class StopTraining(Exception):  # noqa: N818 - no error: it leaves ``Trainer.fit`` as asked
    """Training stops as asked, after a checkpoint; the message says where."""


@dataclass(frozen=True, slots=True)
class StopAnswer:
    """Answer that all workers get to one question.

    Attributes:
        is_stop_wanted: The driver asks to stop: the user pressed Ctrl-C, or a scheduler ends the
            job.
        is_node_leaving: The cluster has just announced that a node of the run goes away soon.
    """

    is_stop_wanted: bool = False
    is_node_leaving: bool = False


class StopPoll:
    """Question to the driver and to the cluster: every ``INTERVAL_S`` seconds, and once an epoch.

    Workers that stopped at different steps would wait for each other for ever. So the first worker
    asks, and sends the answer and the number of steps until the next question to all.

    Args:
        status: A ``TrainingStatus`` or ``RemoteStatus``; None where nobody asks to stop.
        read_notice: Returns what the cluster announces of a node that goes away soon, or None.
    """

    def __init__(self, status: Any, read_notice: Callable[[], Any]) -> None:
        self._status, self._read_notice = status, read_notice
        self._steps_left, self._num_steps = 1, 1
        self._asked_s = time.monotonic()
        self._notice: Any = None

    def end_step(self, trainer: "L.Trainer") -> StopAnswer:
        """Count a step; ask, if a question is due. All workers call this after each step."""
        self._steps_left -= 1
        return StopAnswer() if self._steps_left else self.ask(trainer)

    def ask(self, trainer: "L.Trainer") -> StopAnswer:
        """Ask now. All workers call this together."""
        is_stop_wanted, self._num_steps = trainer.strategy.broadcast(
            (self._is_stop_wanted(), self._plan()) if trainer.is_global_zero else (False, 1)
        )
        self._steps_left = self._num_steps
        notice = self._read_notice()
        is_new = notice is not None and notice != self._notice
        self._notice = notice
        return StopAnswer(is_stop_wanted, is_new)

    def _is_stop_wanted(self) -> bool:
        status = self._status.get() if self._status is not None else None
        # without an answer: the next question comes soon
        return status is not None and bool(status["stop"])

    def _plan(self) -> int:
        """Return the number of steps until the next question, from the pace since the last."""
        now_s = time.monotonic()
        step_s = (now_s - self._asked_s) / self._num_steps
        self._asked_s = now_s
        return min(max(int(INTERVAL_S / max(step_s, 1e-6)), 1), MAX_STEPS)
