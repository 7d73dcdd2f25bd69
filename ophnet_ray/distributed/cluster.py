"""Connection to a Ray cluster that runs, or to one that is started on this machine."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.services import get_webui_url_from_internal_kv
from ray.job_config import JobConfig

from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster_check import check_dashboard
from ophnet_ray.distributed.doors import GCS_QUESTION, RAYLET_QUESTION, check_grpc_doors
from ophnet_ray.distributed.environment import (
    find_running_head,
    hidden_log_level_notice,
    hide_actor_errors,
    is_listening,
    token_path,
)
from ophnet_ray.distributed.ownership import check_token_file, create_token, own_ray_folder
from ophnet_ray.distributed.private import PRIVATE_VARIABLE, hide_arguments
from ophnet_ray.distributed.resources import local_cpus
from ophnet_ray.errors import ClusterError, UserError, one_line
from ophnet_ray.settings import MAX_REASON_CHARS
from ophnet_ray.signals import kept_handlers
from ophnet_ray.storage.disk_space import Need, find_shortages
from ophnet_ray.wording import say_count

logger = logging.getLogger(__name__)

DASHBOARD_TIMEOUT_S = 30.0
START_ATTEMPTS = 3
MIN_TEMPORARY_BYTES = 20_000_000
"""Room without which a Ray of this machine is not started: it takes some MB for its logs."""


@contextmanager
def connect(
    config: Config, metadata: dict[str, str] | None = None, concurrent_runs: int = 1
) -> Iterator[str]:
    """Join the running cluster, or start one on this machine for as long as the run lasts.

    Inside another such block the connection of that one is used: stages of a command share a Ray.

    Args:
        config: Settings of the run.
        metadata: Text for the dashboard, beside the job; never a path or an id of the data.
        concurrent_runs: Number of such runs that train simultaneously.

    Yields:
        One line for the user: the cluster and its dashboard.

    Raises:
        UserError: A cluster is named but does not answer, or is open to everybody; or the disk for
            the temporary files of a new Ray is full.
        ClusterError: Ray does not start on this machine.
    """
    if ray.is_initialized():
        yield "the Ray of the stage before"
        return
    head = find_running_head()
    if config.temporal.is_used:
        hide_actor_errors()  # a later stage encodes the videos with this Ray
    job = JobConfig(metadata=metadata or {})
    if config.run.private:
        hide_arguments()  # before Ray puts them into its record of the job
    try:
        if head is None:
            create_token(token_path())
            check_token_file(token_path())
            where = f"local Ray, dashboard http://{_start_local(config, concurrent_runs, job)}"
        else:
            check_token_file(token_path())
            where = _join_closed(head, job, config.run.private)
        _quiet_loggers()
        yield where
    finally:
        ray.shutdown()


def _join_closed(head: str, job: JobConfig, is_private: bool) -> str:
    """Join a cluster that does not answer strangers; return one line about it.

    Raises:
        UserError: It answers them, or does not answer at all.
    """
    if "://" not in head:
        check_grpc_doors([head], GCS_QUESTION, "the Ray cluster")  # before it gets our code
    dashboard = _join(head, job, is_private)
    check_dashboard(dashboard)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    raylets = [f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for node in nodes]
    check_grpc_doors(raylets, RAYLET_QUESTION, "the node")
    where = f"Ray cluster {head}, {say_count(len(nodes), 'node')}"
    if dashboard:
        where += (
            f", dashboard http://{dashboard} as seen from its head (`ray dashboard "
            "CLUSTER.yaml` brings it here, `ray get-auth-token` opens it)"
        )
    return where


def _start_local(config: Config, concurrent_runs: int, job: JobConfig) -> str:
    """Start Ray on this machine, on loopback; return the dashboard's address.

    Ray gives each of its processes half a minute, which a busy machine may exceed: it gets a second
    and a third chance.

    Raises:
        UserError: The disk of its temporary files is full.
        ClusterError: Ray does not start.
    """
    folder = own_ray_folder()
    need = Need("Ray's temporary files (RAY_TMPDIR)", Path(folder), MIN_TEMPORARY_BYTES)
    for shortage in find_shortages([need]):
        raise UserError(f"{shortage}; free some, or set RAY_TMPDIR to another folder")
    failure = ""
    for _ in range(START_ATTEMPTS):
        before = psutil.Process().children()
        try:
            return _init_local(folder, config, concurrent_runs, job)
        except Exception as error:  # Ray raises no narrower one for what did not come up
            logger.info("Ray does not start", exc_info=True)
            failure = one_line(error, MAX_REASON_CHARS)
            ray.shutdown()
            _end_processes([each for each in psutil.Process().children() if each not in before])
    raise ClusterError(
        f"{failure}; is the machine very busy, or its memory full? The same command tries again"
    )


def _init_local(folder: str, config: Config, concurrent_runs: int, job: JobConfig) -> str:
    # The actor that frees the CPUs of a stopped run finds the cluster by this variable. Without it
    # the actor guesses, and fails beside a second Ray. The port must be known before the start.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    with hidden_log_level_notice(), kept_handlers():
        context = ray.init(
            address="local",
            num_cpus=local_cpus(config, concurrent_runs),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            job_config=job,
            runtime_env=_environment_of_workers(f"127.0.0.1:{port}", config.run.private),
            _temp_dir=folder,
        )
    return str(context.dashboard_url)


def _end_processes(processes: Sequence[psutil.Process]) -> None:
    """End the processes of a Ray that did not come up."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _join(head: str, job: JobConfig, is_private: bool) -> str:
    """Join a cluster; return the dashboard's address."""
    cure = "set RAY_ADDRESS to the right one, or to local for a Ray of this run's own"
    # Ray itself would try for minutes. It alone checks ray:// and other schemes
    if "://" not in head and not is_listening(head):
        raise UserError(f"nothing answers at the Ray cluster's address {head}; {cure}")
    try:
        with hidden_log_level_notice(), kept_handlers():
            context = ray.init(
                address=head,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=job,
                runtime_env=_environment_of_workers(head, is_private),
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
    """Return the dashboard's address, which a new head reports late; empty if there is none."""
    deadline_s = time.monotonic() + DASHBOARD_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if address := get_webui_url_from_internal_kv():
            return str(address)
        time.sleep(0.5)
    logger.info("the cluster has no dashboard")
    return ""


def _environment_of_workers(head: str, is_private: bool) -> dict[str, Any]:
    private = {PRIVATE_VARIABLE: "1"} if is_private else {}
    return {
        "env_vars": {"RAY_ADDRESS": head, **private},
        "worker_process_setup_hook": "ophnet_ray.distributed.worker_hook.set_up_worker",
    }


def _quiet_loggers() -> None:
    """Send Ray's own warnings to our log instead of the console."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        library = logging.getLogger(name)
        library.handlers = [h for h in library.handlers if isinstance(h, logging.FileHandler)]
        library.propagate = True
        library.setLevel(logging.WARNING)
