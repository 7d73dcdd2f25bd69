"""Environment variables that must be set before Ray is imported. Imports no Ray."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ophnet_ray.distributed.ownership import is_trusted_file, is_trusted_listener

CUBLAS_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Variables without which cuBLAS need not repeat its results. They must be set before a process
starts CUDA; see ``torch.use_deterministic_algorithms``."""

logger = logging.getLogger(__name__)

# Ray's switch for "clusters, or this machine only", named after the systems where it matters most:
# with 0 every service of a local Ray listens on 127.0.0.1 alone.
_CLUSTERS_ALLOWED = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def find_running_head() -> str | None:
    """Return the address of a running cluster: ``RAY_ADDRESS``, or a head of this machine.

    ``RAY_ADDRESS=local`` asks for a Ray of this run's own beside a running head. Ray writes the
    head's address to a file and never removes it. An address that does not answer is ignored here,
    for which Ray would wait; and so is one that another user wrote or listens at.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named not in ("", "auto"):
        return named
    return _head_of_this_machine()


def _head_of_this_machine() -> str | None:
    """Return the address that Ray wrote to its file, if it answers and belongs to us or root."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    file = folder / "ray" / "ray_current_cluster"
    if not file.exists():
        return None
    # the folder is open to all users of the machine, and whoever is believed gets our token
    if not is_trusted_file(file):
        _say_once(f"{file} belongs to another user: the Ray that it names is not joined")
        return None
    address = file.read_text().strip()
    if not is_listening(address):
        return None
    if not is_trusted_listener(address):
        _say_once(f"the Ray at {address} belongs to another user: it is not joined")
        return None
    return address


@cache
def _say_once(notice: str) -> None:
    # before the run has a log, this goes to the console
    logger.warning("warning: %s; RAY_ADDRESS joins it all the same", notice)


def token_path() -> Path:
    """Return the file in which Ray keeps the token that opens a cluster."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def is_listening(address: str) -> bool:
    """Return True if something answers at ``host:port`` within two seconds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def prepare_environment() -> None:
    """Set variables for this process and those it starts; values that the user set stay."""
    from joblib import cpu_count

    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # interval at which the controller checks whether the workers are done; every run waits for
        # it at the start and at the end, 2 s by default
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # starting many workers that import torch on a small machine takes more than the 60 s
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        # relative paths keep their meaning; Ray would change to the folder of the run
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # a call to Ray starts none: threads of a stopped run that are still at work would start a
        # second one, in a folder that is open to others, and the run would wait for it
        "RAY_ENABLE_AUTO_CONNECT": "0",
        # our own message names the video at which a process ended; Ray's would stand on stdout,
        # between the lines of the answer
        "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing a task",
        # a search has its own table and files
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # a trial that diverges in its first epoch ends without a score
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    }
    head = find_running_head()
    if head is None:
        # a Ray of this run's own: on loopback, and locked even there
        defaults |= {_CLUSTERS_ALLOWED: "0", "RAY_AUTH_MODE": "token"}
        # a thread of torch that waits for the others spins as long as waking it takes, some 20 µs;
        # by default 300 times as long, and with other programs on the cores a step takes minutes
        defaults["GOMP_SPINCOUNT"] = "1000"
        # a trial has processes that only wait; a small machine soon has four times as many as
        # cores, and Ray would warn of that on stdout, between the lines of the answer
        defaults["RAY_worker_maximum_startup_concurrency"] = str(max(cpu_count(), 8))
        # Ray would start a process per CPU that no run can use: it lacks the environment of the job
        defaults["RAY_prestart_worker_first_driver"] = "0"
        # nobody takes this machine away; the start of the workers would wait for the watcher
        defaults["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    else:
        if head.startswith(("127.", "localhost")):
            # without it Ray would mistake the loopback address for the machine's outer one
            defaults[_CLUSTERS_ALLOWED] = "0"
        if "RAY_AUTH_TOKEN" in os.environ or token_path().is_file():
            # `ray start` asks for it, unless RAY_AUTH_MODE=disabled, which must then stand here too
            defaults["RAY_AUTH_MODE"] = "token"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def hide_actor_errors() -> None:
    """Hide an error that Ray's core prints per actor of Ray Data, about a restart of the actor.

    It would lack its arguments, which the driver holds. To be called before Ray is connected; a
    level that the user set stays.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def hidden_log_level_notice() -> Iterator[None]:
    """Hide the line with which Ray's C++ core reports ``RAY_BACKEND_LOG_LEVEL`` at its start.

    The core writes it to the file descriptor of stderr, before the level is in force. Every other
    line is passed on when the context ends.
    """
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured:
                if b"Set ray log level from environment variable" not in line:
                    os.write(2, line)
