"""Doors of a cluster: whether they open without a token."""

import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc

from ophnet_ray.errors import UserError

TIMEOUT_S = 5.0
GCS_QUESTION = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
RAYLET_QUESTION = "/ray.rpc.NodeManagerService/GetNodeStats"


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches the host; a name is looked up."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def check_grpc_doors(addresses: Iterable[str], question: str, what: str) -> None:
    """Refuse a cluster with a service that answers strangers.

    Args:
        addresses: ``host:port`` of services of Ray; those on loopback are not asked.
        question: A harmless request, as ``/package.Service/Method``.
        what: Name of the service in the message.

    Raises:
        UserError: A service answers without a token.
    """
    outside = [each for each in addresses if not is_loopback(each.rpartition(":")[0])]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda address: _answers_strangers(address, question), outside))
    for address, is_open in zip(outside, answers, strict=True):
        if is_open:
            raise UserError(
                f"{what} {address} answers without a token: anybody on its network can run code "
                "on the cluster; start Ray with RAY_AUTH_MODE=token on all nodes, see "
                "cluster/README.md"
            )


def _answers_strangers(address: str, question: str) -> bool:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            channel.unary_unary(question)(b"", timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False  # refused, or out of reach
    return True
