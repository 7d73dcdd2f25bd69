"""Connect to a Ray cluster, or start a local one, and count what a run needs of it."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.ray_environment import find_running_head, is_listening, token_path

logger = logging.getLogger(__name__)


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
def connect(config: Config) -> Iterator[str]:
    """Join the running cluster, or start one on this machine for as long as the run lasts.

    Yields:
        One line on where the run takes place.

    Raises:
        UserError: A cluster is named but does not answer.
    """
    head = find_running_head()
    if head is None:
        where = f"local Ray, dashboard http://{_start_local(config)}"
    else:
        _join(head)
        where = f"Ray cluster {head}, {len(ray.nodes())} nodes"
    _quiet_loggers()
    try:
        yield where
    finally:
        ray.shutdown()


def plan_resources(config: Config) -> Resources:
    """Choose workers for the cluster that is connected.

    Decoding is over before training starts, so that the two do not add up.

    Raises:
        UserError: More is asked for than there is (Ray would wait for ever).
    """
    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    asked = config.training
    use_gpu = gpus > 0 if asked.use_gpu == "auto" else asked.use_gpu == "true"
    if use_gpu and not gpus:
        raise UserError(
            "--use_gpu true: the cluster has no GPU; leave the flag out to train on CPU"
        )
    holds = gpus if use_gpu else _most_cpu_workers(cpus)
    workers = asked.train_workers or (gpus if use_gpu else 1)
    if workers > holds:
        kind = "GPU" if use_gpu else "CPU"
        raise UserError(
            f"--train_workers {workers}: the cluster holds {holds} "
            f"({cpus} logical CPUs, {gpus} GPUs, 1 {kind} a worker); use at most {holds}"
        )
    decode_workers = min(config.run.num_workers, cpus)
    if decode_workers < config.run.num_workers:
        logger.info("%d decode workers, as many as the cluster has CPUs", decode_workers)
    # on a machine of our own the train workers share its cores; on a cluster each has its CPU
    threads = 1 if _joined_cluster() else max((os.cpu_count() or 1) // workers, 1)
    threads = asked.threads_per_worker or threads
    return Resources(workers, use_gpu, decode_workers, threads)


def local_cpus(config: Config) -> int:
    """Logical CPUs of a local Ray: enough for the run on however small a machine."""
    cores = os.cpu_count() or 1
    wanted = min(config.training.train_workers or 1, 2 * max(cores, 2))
    return max(cores, wanted + config.run.num_workers + 1)


def _most_cpu_workers(cpus: int) -> int:
    """Train workers that make sense: on this machine's own Ray, two a core."""
    if _joined_cluster():
        return cpus
    return min(cpus, 2 * max(os.cpu_count() or 1, 2))


def _joined_cluster() -> bool:
    return find_running_head() is not None


def _start_local(config: Config) -> str:
    """Start Ray on this machine, on loopback; return the dashboard's address."""
    # The actor that frees the CPUs of a stopped run looks for the cluster by this variable, else
    # it guesses, and fails beside a second Ray. The address must be known before the start.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    context = ray.init(
        address="local",
        num_cpus=local_cpus(config),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"RAY_ADDRESS": f"127.0.0.1:{port}"}},
    )
    if token_path().is_file():
        token_path().chmod(0o600)  # Ray writes it readable for everybody
    return str(context.dashboard_url)


def _join(head: str) -> None:
    cure = "set RAY_ADDRESS to the right one, or to local for a Ray of this run's own"
    # Ray itself would try for minutes; ray:// and other schemes are left to it
    if "://" not in head and not is_listening(head):
        raise UserError(f"nothing answers at the Ray cluster's address {head}; {cure}")
    try:
        ray.init(
            address=head,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"RAY_ADDRESS": head}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the Ray cluster {head} does not answer ({reason}); {cure}") from error


def _quiet_loggers() -> None:
    """Send Ray's own warnings where ours go, instead of to the console."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        library = logging.getLogger(name)
        library.handlers = [h for h in library.handlers if isinstance(h, logging.FileHandler)]
        library.propagate = True
        library.setLevel(logging.WARNING)
