"""Resources of a run: what it takes of a cluster, and nodes that it waits for."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import ray
from joblib import cpu_count
from ray.util.placement_group import placement_group, remove_placement_group

from ophnet_ray.config import Config, Placement
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.errors import UserError
from ophnet_ray.settings import parse_worker_range

logger = logging.getLogger(__name__)

Device = Literal["CPU", "GPU"]
OnNotice = Callable[[str], None]
"""Receives one line for the user."""

_WAIT = "or give --wait_for_nodes_s if an autoscaler adds nodes"


@dataclass(frozen=True, slots=True)
class Resources:
    """Workers and threads of a run.

    Attributes:
        train_workers: Train workers; the largest number of them, if it follows the cluster.
        use_gpu: True if each takes a GPU.
        decode_workers: Parallel decode workers that the cluster has room for now.
        threads_per_worker: CPU threads of a train worker.
        begun_with: Train workers that the run began with; None for a new run.
        sizes: Numbers of train workers, ascending, among which the cluster decides; none if it does
            not.
        decode_limit: Maximum number of parallel decode workers, also when nodes join; None for one
            per CPU that the cluster has at the time.
        num_sharing: Runs that share the cluster side by side, this one included.
    """

    train_workers: int
    use_gpu: bool
    decode_workers: int
    threads_per_worker: int
    begun_with: int | None = None
    sizes: tuple[int, ...] = ()
    decode_limit: int | None = None
    num_sharing: int = 1

    def shared_by(self, num_runs: int) -> Self:
        """Return what each of so many runs takes side by side: of the decode workers a share.

        Their train workers fit beside each other, see ``fold_room``.
        """
        if num_runs == 1:
            return self
        share = max(self.decode_workers // num_runs, 1)
        return replace(self, decode_workers=share, decode_limit=share, num_sharing=num_runs)

    @property
    def step_workers(self) -> int:
        """Train workers whose batches make up a step: those that the run began with."""
        return self.begun_with or self.train_workers

    def describe(self) -> dict[str, int | str]:
        """Return the values that affect the numbers of a run; a resumed run must match them."""
        return {
            "train_workers": self.step_workers,
            "device": "GPU" if self.use_gpu else "CPU",
            "threads_per_worker": self.threads_per_worker,
        }


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """Size of the connected cluster.

    Attributes:
        num_cpus: Logical CPUs in all.
        num_gpus: GPUs in all.
        cpus_by_node: Logical CPUs of each living node.
        gpus_by_node: GPUs of each living node.
        is_joined: False for a Ray that this process started for itself.
        num_cores: Cores of this machine.
    """

    num_cpus: int
    num_gpus: int
    cpus_by_node: tuple[int, ...]
    gpus_by_node: tuple[int, ...]
    is_joined: bool
    num_cores: int

    def max_train_workers(self, device: Device, placement: Placement) -> int:
        """Return how many train workers fit, one CPU or GPU each, under a placement."""
        counts = self.gpus_by_node if device == "GPU" else self.cpus_by_node
        if placement == "STRICT_PACK":
            fit = max(counts)
        elif placement == "STRICT_SPREAD":
            fit = sum(map(bool, counts))
        else:
            fit = sum(counts)
        return min(fit, self.num_gpus if device == "GPU" else self._max_cpu_workers())

    def _max_cpu_workers(self) -> int:
        """Return how many train workers make sense: on this machine's own Ray, two per core."""
        if self.is_joined:
            return self.num_cpus
        return min(self.num_cpus, max_local_workers(self.num_cores))


def plan_resources(config: Config, on_notice: OnNotice, num_sharing: int = 1) -> Resources:
    """Choose the workers of a run on the connected cluster, once its nodes have come.

    Args:
        config: Settings of the run.
        on_notice: Receives a line when nodes are waited for.
        num_sharing: Runs that share the cluster side by side, this one included.

    Raises:
        UserError: The run asks for more than the cluster has (Ray would wait for ever).
    """
    if config.run.wait_for_nodes_s and find_running_head() is not None:
        wait_for_nodes(config, on_notice)
    return choose_resources(config, read_cluster_size()).shared_by(num_sharing)


def read_cluster_size() -> ClusterSize:
    """Read the size of the connected cluster."""
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return ClusterSize(
        num_cpus=int(total.get("CPU", 0)),
        num_gpus=int(total.get("GPU", 0)),
        cpus_by_node=tuple(int(node.get("CPU", 0)) for node in nodes),
        gpus_by_node=tuple(int(node.get("GPU", 0)) for node in nodes),
        is_joined=find_running_head() is not None,
        num_cores=cpu_count(),
    )


def measure_machine(config: Config) -> ClusterSize:
    """Return the size that a Ray of this machine would have for the run, without starting it."""
    import torch  # takes a second of CPU to load: a cluster is measured by Ray

    num_cpus, num_gpus = local_cpus(config), torch.cuda.device_count()
    return ClusterSize(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        cpus_by_node=(num_cpus,),
        gpus_by_node=(num_gpus,),
        is_joined=False,
        num_cores=cpu_count(),
    )


def choose_resources(config: Config, cluster: ClusterSize) -> Resources:
    """Choose the workers of a run for a cluster.

    Decoding ends before training starts, so their CPUs do not add up.

    Raises:
        UserError: The run asks for more than the cluster has.
    """
    asked, run = config.training, config.run
    use_gpu = _choose_device(config, cluster) == "GPU"
    device: Device = "GPU" if use_gpu else "CPU"
    fit = cluster.max_train_workers(device, run.placement_strategy)
    workers = parse_worker_range(asked.train_workers).most or (fit if use_gpu else 1)
    fewest = parse_worker_range(asked.train_workers).fewest or workers
    if fewest > fit:
        placed = f" placed {run.placement_strategy}" if "STRICT" in run.placement_strategy else ""
        raise UserError(
            f"--train_workers {asked.train_workers or workers}: the cluster holds {fit}{placed} "
            f"({cluster.num_cpus} logical CPUs, {cluster.num_gpus} GPUs, 1 {device} per worker); "
            f"use at most {fit}, {_WAIT}"
        )
    # a Ray of our own has more CPUs than there are cores: further decoders would only take memory
    max_decoders = cluster.num_cpus if cluster.is_joined else cluster.num_cores
    wanted = run.num_workers or max_decoders
    decode_workers = min(wanted, max_decoders)
    if decode_workers < wanted:
        logger.info("%d decode workers, as many as there are CPUs", decode_workers)
    # a Ray of our own does not grow
    decode_limit = run.num_workers if cluster.is_joined else decode_workers
    # on a Ray of our own the train workers share the cores; on a cluster each has its CPU
    threads = 1 if cluster.is_joined else max(cluster.num_cores // workers, 1)
    resources = Resources(
        workers,
        use_gpu,
        decode_workers,
        asked.threads_per_worker or threads,
        decode_limit=decode_limit,
    )
    if not parse_worker_range(asked.train_workers).is_elastic:
        return resources
    return replace(resources, begun_with=workers, sizes=tuple(range(fewest, workers + 1)))


def _choose_device(config: Config, cluster: ClusterSize) -> Device:
    asked = config.training
    use_gpu = cluster.num_gpus > 0 if asked.use_gpu == "auto" else asked.use_gpu == "true"
    if use_gpu and not cluster.num_gpus:
        raise UserError(
            f"--use_gpu true: the cluster has no GPU; leave the flag out to train on CPU, {_WAIT}"
        )
    if asked.strategy == "fsdp" and not use_gpu:
        raise UserError("--strategy fsdp needs GPUs; leave it out to train on CPU")
    if not cluster.num_cpus:
        raise UserError(f"the cluster has no CPU to work on; start workers, {_WAIT}")
    return "GPU" if use_gpu else "CPU"


def wait_for_nodes(config: Config, on_notice: OnNotice) -> None:
    """Let an autoscaler add the nodes that the train workers need.

    A placement group asks for them. It ends with this process, however that ends: a killed run
    never holds nodes that cost money.

    Raises:
        UserError: The nodes have not come in time.
    """
    asked, timeout_s = config.training, config.run.wait_for_nodes_s
    bundle = {"CPU": 1.0} | ({"GPU": 1.0} if asked.use_gpu == "true" else {})
    workers = parse_worker_range(asked.train_workers).fewest or 1
    group = placement_group([bundle] * workers, strategy=config.run.placement_strategy)
    try:
        if group.wait(1):
            return
        needed = f"{workers} x {' and '.join(f'1 {device}' for device in bundle)}"
        on_notice(f"waiting up to {timeout_s} s for nodes that hold {needed}")
        if not group.wait(timeout_s):
            total = ray.cluster_resources()
            raise UserError(
                f"--wait_for_nodes_s {timeout_s}: no room for {needed} came; the cluster has "
                f"{int(total.get('CPU', 0))} CPUs, {int(total.get('GPU', 0))} GPUs, in use or "
                "not; see `ray status`"
            )
    finally:
        remove_placement_group(group)


def local_cpus(config: Config, concurrent_runs: int = 1) -> int:
    """Return the logical CPUs of a local Ray: enough for the run on a machine of any size."""
    cores: int = cpu_count()
    workers = parse_worker_range(config.training.train_workers).most or 1
    wanted = min(workers * concurrent_runs, max_local_workers(cores))
    return max(cores, wanted + (config.run.num_workers or cores) + 1)


def max_local_workers(num_cores: int) -> int:
    """Return how many train workers make sense on this machine's own Ray: two per core."""
    return 2 * max(num_cores, 2)
