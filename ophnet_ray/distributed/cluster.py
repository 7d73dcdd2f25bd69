"""Connect to a Ray cluster, or start a local one, and count what a run needs of it."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.services import get_webui_url_from_internal_kv
from ray.job_config import JobConfig
from ray.util.placement_group import placement_group, remove_placement_group

from ophnet_ray.config import Config, Placement
from ophnet_ray.console import Console
from ophnet_ray.distributed.cluster_check import check_dashboard
from ophnet_ray.distributed.environment import find_running_head, is_listening, token_path
from ophnet_ray.errors import UserError, one_line

logger = logging.getLogger(__name__)

DASHBOARD_TIMEOUT_S = 30.0

_WAIT = "or give --wait_for_nodes_s if an autoscaler adds nodes"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run takes of a cluster."""

    train_workers: int
    use_gpu: bool
    decode_workers: int
    threads_per_worker: int

    def describe(self) -> dict[str, int | str]:
        """What changes the numbers of a run: a run that is resumed needs the same again."""
        return {
            "train_workers": self.train_workers,
            "device": "GPU" if self.use_gpu else "CPU",
            "threads_per_worker": self.threads_per_worker,
        }


@contextmanager
def connect(
    config: Config, metadata: dict[str, str] | None = None, concurrent_runs: int = 1
) -> Iterator[str]:
    """Join the running cluster, or start one on this machine for as long as the run lasts.

    Args:
        config: Of the run.
        metadata: What the dashboard shows beside the job; never a path or an id of the data.
        concurrent_runs: Such runs that train at the same time.

    Yields:
        One line on where the run takes place, and how to look at it.

    Raises:
        UserError: A cluster is named but does not answer, or is open to everybody.
    """
    head = find_running_head()
    job = JobConfig(metadata=metadata or {})
    if head is None:
        where = f"local Ray, dashboard http://{_start_local(config, concurrent_runs, job)}"
    else:
        dashboard = _join(head, job)
        check_dashboard(dashboard)
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        where = f"Ray cluster {head}, {num_nodes} nodes"
        if dashboard:
            where += (
                f", dashboard http://{dashboard} as seen from its head (`ray dashboard "
                "CLUSTER.yaml` brings it here, `ray get-auth-token` opens it)"
            )
    _quiet_loggers()
    try:
        yield where
    finally:
        ray.shutdown()


def plan_resources(config: Config, console: Console) -> Resources:
    """Choose workers for the cluster that is connected, once its nodes have come.

    Decoding is over before training starts, so that the two do not add up.

    Raises:
        UserError: More is asked for than there is (Ray would wait for ever).
    """
    asked, run = config.training, config.run
    joined, cores = _joined_cluster(), os.cpu_count() or 1
    if run.wait_for_nodes_s and joined:
        wait_for_nodes(config, console)
    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    use_gpu = gpus > 0 if asked.use_gpu == "auto" else asked.use_gpu == "true"
    if use_gpu and not gpus:
        raise UserError(
            f"--use_gpu true: the cluster has no GPU; leave the flag out to train on CPU, {_WAIT}"
        )
    if asked.strategy == "fsdp" and not use_gpu:
        raise UserError("--strategy fsdp needs GPUs; leave it out to train on CPU")
    if not cpus:
        raise UserError(f"the cluster has no CPU to work on; start workers, {_WAIT}")
    kind = "GPU" if use_gpu else "CPU"
    holds = min(_places(kind, run.placement_strategy), gpus if use_gpu else _most_cpu_workers(cpus))
    workers = asked.train_workers or (holds if use_gpu else 1)
    if workers > holds:
        placed = f" placed {run.placement_strategy}" if "STRICT" in run.placement_strategy else ""
        raise UserError(
            f"--train_workers {workers}: the cluster holds {holds}{placed} "
            f"({cpus} logical CPUs, {gpus} GPUs, 1 {kind} a worker); use at most {holds}, {_WAIT}"
        )
    # a Ray of our own has more CPUs than there are cores: further decoders would only take memory
    decode_workers = min(run.num_workers, cpus if joined else cores)
    if decode_workers < run.num_workers:
        logger.info("%d decode workers, as many as there are CPUs", decode_workers)
    # on a machine of our own the train workers share its cores; on a cluster each has its CPU
    threads = 1 if joined else max(cores // workers, 1)
    threads = asked.threads_per_worker or threads
    return Resources(workers, use_gpu, decode_workers, threads)


def wait_for_nodes(config: Config, console: Console) -> None:
    """Let an autoscaler add the nodes that the train workers need.

    It is asked by a placement group, which ends with this process however that ends: nodes are
    never held, and paid, for a run that was killed.

    Raises:
        UserError: They have not come in time.
    """
    asked, timeout_s = config.training, config.run.wait_for_nodes_s
    kinds = {"CPU": 1.0} | ({"GPU": 1.0} if asked.use_gpu == "true" else {})
    workers = asked.train_workers or 1
    group = placement_group([kinds] * workers, strategy=config.run.placement_strategy)
    try:
        if group.wait(1):
            return
        what = " and ".join(f"1 {kind}" for kind in kinds)
        console.say(f"waiting up to {timeout_s} s for nodes that hold {workers} x {what}")
        if not group.wait(timeout_s):
            total = ray.cluster_resources()
            raise UserError(
                f"--wait_for_nodes_s {timeout_s}: no room for {workers} x {what} came; the cluster "
                f"has {int(total.get('CPU', 0))} CPUs, {int(total.get('GPU', 0))} GPUs, in use or "
                "not; see `ray status`"
            )
    finally:
        remove_placement_group(group)


def _places(kind: str, placement: Placement) -> int:
    """Train workers that the nodes hold under a placement, one CPU or GPU each."""
    counts = [int(n["Resources"].get(kind, 0)) for n in ray.nodes() if n["Alive"]]
    if placement == "STRICT_PACK":
        return max(counts)
    return sum(map(bool, counts)) if placement == "STRICT_SPREAD" else sum(counts)


def local_cpus(config: Config, concurrent_runs: int = 1) -> int:
    """Logical CPUs of a local Ray: enough for the run on however small a machine."""
    cores = os.cpu_count() or 1
    wanted = min((config.training.train_workers or 1) * concurrent_runs, 2 * max(cores, 2))
    return max(cores, wanted + config.run.num_workers + 1)


def _most_cpu_workers(cpus: int) -> int:
    """Train workers that make sense: on this machine's own Ray, two a core."""
    if _joined_cluster():
        return cpus
    return min(cpus, 2 * max(os.cpu_count() or 1, 2))


def _joined_cluster() -> bool:
    return find_running_head() is not None


def _start_local(config: Config, concurrent_runs: int, job: JobConfig) -> str:
    """Start Ray on this machine, on loopback; return the dashboard's address."""
    # The actor that frees the CPUs of a stopped run looks for the cluster by this variable, else
    # it guesses, and fails beside a second Ray. The address must be known before the start.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    context = ray.init(
        address="local",
        num_cpus=local_cpus(config, concurrent_runs),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
        job_config=job,
        runtime_env=_environment_of_workers(f"127.0.0.1:{port}"),
    )
    if token_path().is_file():
        token_path().chmod(0o600)  # Ray writes it readable for everybody
    return str(context.dashboard_url)


def _join(head: str, job: JobConfig) -> str:
    """Join a cluster; return the dashboard's address."""
    cure = "set RAY_ADDRESS to the right one, or to local for a Ray of this run's own"
    # Ray itself would try for minutes; ray:// and other schemes are left to it
    if "://" not in head and not is_listening(head):
        raise UserError(f"nothing answers at the Ray cluster's address {head}; {cure}")
    try:
        context = ray.init(
            address=head,
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=job,
            runtime_env=_environment_of_workers(head),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = one_line(error, max_chars=200)
        if "Version mismatch" in reason:
            raise UserError(
                f"the Ray cluster {head} runs other versions: {reason}; install the same on all "
                "nodes and here"
            ) from error
        raise UserError(f"the Ray cluster {head} does not answer ({reason}); {cure}") from error
    return context.dashboard_url or _wait_for_dashboard()


def _wait_for_dashboard() -> str:
    """The dashboard's address; a head tells it some seconds after it is up. Empty without one."""
    deadline_s = time.monotonic() + DASHBOARD_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if address := get_webui_url_from_internal_kv():
            return str(address)
        time.sleep(0.5)
    logger.info("the cluster has no dashboard")
    return ""


def _environment_of_workers(head: str) -> dict[str, Any]:
    return {
        "env_vars": {"RAY_ADDRESS": head},
        "worker_process_setup_hook": "ophnet_ray.distributed.worker_hook.use_interface_of_cluster",
    }


def _quiet_loggers() -> None:
    """Send Ray's own warnings where ours go, instead of to the console."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        library = logging.getLogger(name)
        library.handlers = [h for h in library.handlers if isinstance(h, logging.FileHandler)]
        library.propagate = True
        library.setLevel(logging.WARNING)
