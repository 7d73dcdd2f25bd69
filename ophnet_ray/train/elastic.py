"""Number of train workers that follows the cluster, through Ray Train's own scaling policy.

Ray's policy takes as many workers as there is room for. Here only numbers are taken that share the
steps of the run equally, and a run grows when an epoch has just been kept, where growing costs no
step. It shrinks when a node is lost: it then resumes from the last whole epoch, since a checkpoint
inside an epoch holds the states of another number of workers.

Uses undocumented parts of Ray (``ElasticScalingPolicy``, the method of the trainer that hands it to
the controller, and the one that makes its callbacks): check them when Ray is updated.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ophnet_ray.train.protocol import TrainLoopConfig

ANSWER_TIMEOUT_S = 2.0
"""Seconds in which a node accepts a connection, unless it is gone."""


def plan_scaling(loop: TrainLoopConfig) -> ScalingConfig:
    """Return Ray's scaling of a run: a number of workers, or its limits."""
    resources = loop.resources
    return ScalingConfig(
        num_workers=(resources.sizes[0], resources.sizes[-1])
        if resources.sizes
        else resources.train_workers,
        use_gpu=resources.use_gpu,
        placement_strategy=loop.config.run.placement_strategy,
        # the policy below decides when
        elastic_resize_monitor_interval_s=0,
    )


class SharedStepsPolicy(ElasticScalingPolicy):
    """Scaling policy that takes only certain numbers of workers, and grows between epochs.

    Args:
        scaling_config: Of the run.
        sizes: Numbers of workers that share the steps equally, ascending.
        num_epochs: Epochs of the run; after the last one there is nothing to grow for.
    """

    def __init__(
        self, scaling_config: ScalingConfig, sizes: Sequence[int], num_epochs: int
    ) -> None:
        super().__init__(scaling_config)
        self._sizes, self._num_epochs = sizes, num_epochs

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        # Ray counts a node that died for some 20 s more, and would wait for workers on it
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _answers(node)}
        reserved = {node: each for node, each in reserved_resources.items() if node in alive}
        room = super()._count_possible_workers(reserved)
        return max((size for size in self._sizes if size <= room), default=0)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Resize if the first worker has just reported an epoch, whose checkpoint is then kept."""
        report = worker_group_status.worker_statuses[0].training_report
        if report is not None and report.metrics["epoch"] + 1 < self._num_epochs:
            return super().make_decision_for_running_worker_group(
                worker_group_state, worker_group_status
            )
        self._maybe_send_resource_request()  # type: ignore[no-untyped-call] # Ray has no hint
        # forgets a request after three minutes
        return NoopDecision()


def _answers(node: Mapping[str, Any]) -> bool:
    """Return True if the raylet of a node takes connections."""
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, ANSWER_TIMEOUT_S).close()
    except OSError:
        return False
    return True


class ScaledTrainer(TorchTrainer):
    """Ray's trainer, with ``SharedStepsPolicy`` for runs whose number of workers has limits.

    It has no data sets of Ray Data, and does without the actor that Ray starts to divide them.

    Args:
        train_loop: Function of each worker, which takes ``{"loop": loop}``.
        loop: What the driver sends to the workers.
        settings: As for Ray's trainer.
    """

    def __init__(
        self, train_loop: Callable[..., Any], loop: TrainLoopConfig, **settings: Any
    ) -> None:
        self._loop, self._scaling = loop, plan_scaling(loop)
        super().__init__(
            train_loop,
            train_loop_config={"loop": loop},
            scaling_config=self._scaling,
            **settings,
        )

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        sizes = self._loop.resources.sizes
        if sizes:
            controller["scaling_policy"] = SharedStepsPolicy(
                self._scaling, sizes, self._loop.config.training.max_epochs
            )
        return super()._initialize_and_run_controller(**controller)

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        return [each for each in made if not isinstance(each, DatasetsCallback)]
