"""What must be settled before Ray is imported. Imports no Ray."""

import os
import socket
import tempfile
from pathlib import Path

# Ray's switch for "clusters, or this machine only", named after the systems where it matters most:
# with 0 every service of a local Ray listens on 127.0.0.1 alone.
_CLUSTERS_ALLOWED = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def find_running_head() -> str | None:
    """The address of a running cluster: ``RAY_ADDRESS``, or a head started on this machine.

    ``RAY_ADDRESS=local`` asks for a Ray of one's own beside a running head. Ray leaves the head's
    address in a file and never removes it; a dead one is passed over here, where Ray would wait.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named not in ("", "auto"):
        return named
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    try:
        address = (folder / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        return None
    return address if is_listening(address) else None


def token_path() -> Path:
    """Where Ray keeps the token that opens a cluster."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def is_listening(address: str) -> bool:
    """Whether something answers at ``host:port`` within two seconds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def prepare_environment() -> None:
    """Set the environment of this process and of those it starts; what the user set stays."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # the controller looks this often whether the workers are done; the default 2 s is waited
        # out at the start and at the end of every run
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # starting many workers that import torch on a small machine takes more than the 60 s
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        # paths stay what they are; Ray would change to the folder of the run
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # a search has its own table and files
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    head = find_running_head()
    if head is None:
        # a local Ray of our own: on loopback, and locked even there
        defaults |= {_CLUSTERS_ALLOWED: "0", "RAY_AUTH_MODE": "token"}
        # a trial has processes that only wait; four times the cores of a small machine are soon
        # reached, and Ray would warn of them on stdout, between the lines of the answer
        defaults["RAY_worker_maximum_startup_concurrency"] = str(max(os.cpu_count() or 1, 8))
        # Ray would start a process a CPU that no run can use: they lack the environment of its job
        defaults["RAY_prestart_worker_first_driver"] = "0"
        # nobody takes this machine away; its actor is waited for at the start of the workers
        defaults["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    else:
        if head.startswith(("127.", "localhost")):
            # else Ray would take the loopback address for the machine's outer one
            defaults[_CLUSTERS_ALLOWED] = "0"
        if "RAY_AUTH_TOKEN" in os.environ or token_path().is_file():
            # `ray start` asks for it, unless RAY_AUTH_MODE=disabled, which must then stand here too
            defaults["RAY_AUTH_MODE"] = "token"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
