"""Messages between the driver and the train workers: the task of a worker, and its progress."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ophnet_ray.config import Config
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_file import ManifestFile
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.heartbeat import Position, Pulse, name_failures
from ophnet_ray.train.run_directory import RunDirectory


@dataclass(frozen=True)
class TrainLoopConfig:
    """Everything the driver sends to a train worker.

    Of the manifest, it sends the path and the checksum of a file; tests may send the rows.
    ``status`` is a ``TrainingStatus`` or a ``RemoteStatus``, None where nobody watches.
    ``keeps_counts``: True if the counts by case of every epoch are kept, as in a search.
    """

    config: Config
    manifest: Manifest | ManifestFile
    resources: Resources
    run: RunDirectory
    data_hash: str
    status: Any = None
    keeps_counts: bool = False

    lr_flag: ClassVar[str] = "--lr"
    """Flag of the learning rate, for messages."""

    @property
    def num_train(self) -> int:
        """Training windows of an epoch."""
        return self.config.sampling.count_windows(self.manifest.count("train"))

    def __repr__(self) -> str:
        """Name the run only: Ray Train shows this text in the dashboard, and cases are private."""
        return f"TrainLoopConfig(run={self.run.name!r})"


class _Beat(NamedTuple):
    """Last heartbeat of a worker, with times of the actor's clock."""

    position: Position
    where: str
    heard_s: float
    moved_s: float


class TrainingStatus:
    """Training progress, which the workers update and the driver polls, from several threads.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._status: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}, "warnings": []}
        self._status |= {"num_steps": 0, "stop": False, "failure": "", "life": uuid.uuid4().hex}
        self._heard: dict[int, _Beat] = {}

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        with self._lock:
            self._status |= fields

    def warn(self, text: str) -> None:
        """Add a line for the user's console."""
        with self._lock:
            self._status["warnings"].append(text)

    def begin(self, num_workers: int) -> None:
        """Forget the workers before, of which there may have been more."""
        with self._lock:
            self._heard = {rank: beat for rank, beat in self._heard.items() if rank < num_workers}

    def beat(self, rank: int, position: Position, where: str) -> None:
        """Remember where a worker is, and when it was heard and moved."""
        now_s = self._clock()
        with self._lock:
            before = self._heard.get(rank)
            has_moved = before is None or (before.position, before.where) != (position, where)
            moved_s = now_s if before is None or has_moved else before.moved_s
            self._heard[rank] = _Beat(position, where, now_s, moved_s)

    def fail(self, failures: dict[int, str]) -> None:
        """Add lines about workers that have failed, and about those that they waited for."""
        with self._lock:
            lines = name_failures(failures, self._pulses())
            self._status["failure"] = lines[0]
            for line in lines:
                self.warn(f"{line}; training resumes from the last checkpoint")
            self._heard.clear()

    def stop(self) -> None:
        """Ask the workers to write a checkpoint and to stop."""
        self.update(stop=True)

    def get(self) -> dict[str, Any]:
        """Return the status.

        ``epoch`` and ``step`` done, ``num_steps`` of an epoch, ``metrics`` of the last whole epoch,
        all ``warnings``, ``stop``: True once the workers are asked to stop, ``failure``: the last
        line about failed workers, the ``pulses`` of the workers by rank, and ``life``: another text
        after a restart, which forgets the rest.
        """
        with self._lock:
            warnings = [*self._status["warnings"]]
            return self._status | {"warnings": warnings, "pulses": self._pulses()}

    def _pulses(self) -> dict[int, Pulse]:
        now_s = self._clock()
        return {
            rank: Pulse(beat.position, now_s - beat.heard_s, now_s - beat.moved_s, beat.where)
            for rank, beat in self._heard.items()
        }


class RemoteStatus:
    """A ``TrainingStatus`` in an actor, with the same methods; only ``get`` waits for an answer.

    Args:
        run_name: Name of the run, for the dashboard.
    """

    def __init__(self, run_name: str) -> None:
        # beside the driver: a node of the workers may be lost, and the lines about it with it. Ray
        # ignores a soft affinity of an actor that takes no CPU, and draws a node
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(TrainingStatus).options(
            name=f"train status of {run_name}",
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=here,
        )
        self._actor: Any = actor.remote()

    def update(self, **fields: Any) -> None:
        """Set some fields."""
        self._actor.update.remote(**fields)

    def warn(self, text: str) -> None:
        """Add a line for the user's console."""
        self._actor.warn.remote(text)

    def begin(self, num_workers: int) -> None:
        """Forget the workers before, of which there may have been more."""
        self._actor.begin.remote(num_workers)

    def beat(self, rank: int, position: Position, where: str) -> None:
        """Remember where a worker is, and when it was heard and moved."""
        self._actor.beat.remote(rank, position, where)

    def fail(self, failures: dict[int, str]) -> None:
        """Add lines about workers that have failed, and about those that they waited for."""
        self._actor.fail.remote(failures)

    def stop(self) -> None:
        """Ask the workers to write a checkpoint and to stop."""
        self._actor.stop.remote()

    def get(self) -> dict[str, Any] | None:
        """Return the status; None while the actor restarts.

        Raises:
            ActorDiedError: It does not restart.
        """
        try:
            status: dict[str, Any] = ray.get(self._actor.get.remote())
        except ActorUnavailableError:
            return None
        except ActorDiedError as error:
            # Ray infers from the notice to its node that the actor is dead, though it restarts
            if error.preempted:
                return None
            raise
        return status
