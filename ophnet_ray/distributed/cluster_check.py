"""Checks of a cluster before a run: authentication, equal versions, shared paths."""

import hashlib
import os
import platform
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ophnet_ray
from ophnet_ray.distributed.doors import is_loopback
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.errors import UserError, last_line

NODE_TIMEOUT_S = 120.0
"""Time for a node to start a Python process, even from a slow disk."""

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
"""Longer than a busy head needs: an unlocked cluster must not pass because it answers late."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Answer of a node: versions by name, and the paths that it lacks or cannot write."""

    versions: dict[str, str]
    missing: list[str]
    unwritable: list[str]


@dataclass(frozen=True, slots=True)
class SharedPaths:
    """Paths that all nodes must see.

    ``folders``: written by all nodes, path by flag; ``files``: read by all nodes, flag by path.
    """

    folders: dict[str, str]
    files: dict[str, str]


def check_dashboard(address: str) -> None:
    """Refuse a cluster that anybody on its network can run code on.

    Args:
        address: ``host:port`` of the dashboard, as Ray reports it.

    Raises:
        UserError: It is not on loopback, and answers without a token or not at all.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not address or is_loopback(host):
        return
    # without a proxy: the question is who can reach it from here
    dashboard = HTTPConnection(host, int(port), timeout=CONNECT_TIMEOUT_S)
    try:
        dashboard.connect()
    except OSError:
        return  # out of reach
    try:
        dashboard.sock.settimeout(ANSWER_TIMEOUT_S)
        dashboard.request("GET", "/api/version")
        status = dashboard.getresponse().status
    except (OSError, HTTPException) as error:
        raise UserError(
            f"the Ray dashboard http://{address} accepts a connection but does not answer "
            f"({error}): it may be unlocked; try again, or restart Ray"
        ) from error
    finally:
        dashboard.close()
    # a dashboard that is just starting answers 500, to everybody
    if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise UserError(
            f"the Ray dashboard http://{address} answers without a token: anybody on its network "
            "can run code on the cluster; start Ray with RAY_AUTH_MODE=token on all nodes, see "
            "cluster/README.md"
        )


def check_nodes(shared: SharedPaths) -> None:
    """Compare the versions on every node with ours, and test that it sees the files of the run.

    Raises:
        UserError: Naming the first node that differs from this one, and the cure.
    """
    for fault in find_node_faults(shared):
        raise UserError(fault)


def find_node_faults(shared: SharedPaths) -> Iterator[str]:
    """Yield in one line, with the cure, in what each node differs from this one.

    Raises:
        UserError: A node does not answer at all.
    """
    if find_running_head() is None:
        return  # this process has started the only node, from its own environment
    nodes = [node for node in ray.nodes() if node["Alive"]]
    probes = _write_probes(shared.folders) if len(nodes) > 1 else {}
    try:
        paths = {**probes, **shared.files}
        reports = _ask_nodes(nodes, list(paths), [str(Path(probe).parent) for probe in probes])
    finally:
        for probe in probes:
            Path(probe).unlink(missing_ok=True)
    ours = _versions()
    for node, report in reports:
        yield from _compare_versions(node, report.versions, ours)
        # a node without CPUs and GPUs, e.g. a head, does none of the work
        if node["Resources"].keys() & {"CPU", "GPU"}:
            yield from _find_unshared(node, report, paths)


def _ask_nodes(
    nodes: Sequence[dict[str, Any]], paths: list[str], folders: list[str]
) -> list[tuple[dict[str, Any], NodeReport]]:
    look = ray.remote(num_cpus=0, max_retries=0)(_look_around)
    asked = {
        look.options(
            name="check node",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(paths, folders): node
        for node in nodes
    }
    _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_TIMEOUT_S)
    if silent:
        raise UserError(
            f"{_name(asked[silent[0]])} starts no Python process within {NODE_TIMEOUT_S:.0f} s; "
            "see /tmp/ray/session_latest/logs there"
        )
    reports = []
    for answer, node in asked.items():
        try:
            reports.append((node, ray.get(answer)))
        except RayError as error:
            reason = last_line(error) or type(error).__name__
            raise UserError(
                f"{_name(node)} cannot load ophnet-ray ({reason}); install "
                f"{_versions()['ophnet-ray']} there, as on this node"
            ) from error
    return reports


def _look_around(paths: Sequence[str], folders: Sequence[str]) -> NodeReport:
    """Describe the node that this runs on."""
    return NodeReport(
        _versions(),
        [path for path in paths if not Path(path).exists()],
        [folder for folder in folders if not os.access(folder, os.W_OK)],
    )


def _versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        "Ray": ray.__version__,
        "torch": version("torch").partition("+")[0],  # CPU and CUDA builds go together
        "ophnet-ray": f"{ophnet_ray.__version__}+{_source_hash()}",
    }


def _source_hash() -> str:
    """Return eight hexadecimal digits of the package's code: checkouts may share a version."""
    folder = Path(ophnet_ray.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _compare_versions(
    node: dict[str, Any], theirs: dict[str, str], ours: dict[str, str]
) -> Iterator[str]:
    for name, our in ours.items():
        if theirs[name] != our:
            yield (
                f"{_name(node)} has {name} {theirs[name]}, this one {our}; install the same on "
                "all nodes (with the launcher: ray up again)"
            )


def _write_probes(folders: dict[str, str]) -> dict[str, str]:
    """Create a new file in each folder; return the folder's flag by the file's path."""
    probes = {}
    for flag, folder in folders.items():
        probe = Path(folder) / f".probe-{uuid.uuid4().hex}"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probes[str(probe)] = flag
    return probes


def _find_unshared(
    node: dict[str, Any], report: NodeReport, flags: dict[str, str]
) -> Iterator[str]:
    for path in report.missing:
        shown = Path(path).parent if Path(path).name.startswith(".probe-") else path
        yield (
            f"{_name(node)} does not see {flags[path]} {shown} as this one does; use storage that "
            "all nodes share, under the same path"
        )
    unseen = {str(Path(path).parent) for path in report.missing}
    for folder in dict.fromkeys(report.unwritable):
        if folder in unseen:
            continue
        yield f"{_name(node)} cannot write {folder}; it must be writable on all nodes"


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
