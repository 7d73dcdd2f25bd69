"""Config and manifest → a ``TorchTrainer`` whose workers fit the Lightning module."""

from collections.abc import Sequence
from pathlib import Path

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from ophnet_ray.distributed.process_group import BoundTorchConfig
from ophnet_ray.storage.files import delete_file
from ophnet_ray.storage.paths import join
from ophnet_ray.train.worker_config import TrainLoopConfig

MAX_WORKER_FAILURES = 3
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"


def build_trainer(loop: TrainLoopConfig, callbacks: Sequence[UserCallback] = ()) -> TorchTrainer:
    """The Ray Train trainer of a run; ``fit()`` starts it, or goes on where it stopped."""
    # Ray reads its snapshot of checkpoints back, and a torn one would stop every rerun; where to
    # go on is decided from the verified checkpoints themselves.
    (loop.run.path / RAY_SNAPSHOT).unlink(missing_ok=True)
    if loop.run.mirror:
        delete_file(join(loop.run.mirror.uri, RAY_SNAPSHOT))
    folder, filesystem = loop.run.shared_place()
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type] # Ray's hint forgets that it may return something
        train_loop_config={"loop": loop},
        torch_config=BoundTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=loop.resources.train_workers,
            use_gpu=loop.resources.use_gpu,
            placement_strategy=loop.config.run.placement_strategy,
        ),
        run_config=RunConfig(
            name=loop.run.path.name,
            storage_path=str(Path(folder).parent),
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=CheckpointConfig(),
            callbacks=list(callbacks),  # type: ignore[arg-type] # its stub is that of Train V1
        ),
    )


def train_loop(loop_config: dict[str, TrainLoopConfig]) -> dict[str, str]:
    """What Ray Train calls on each worker; see ``train_worker.run_worker``."""
    # Lightning and timm take four seconds of CPU to load: the processes that only start workers
    # and wait for them do without
    from ophnet_ray.train.worker import run_worker

    return run_worker(loop_config["loop"])
