"""Set-up hook of worker processes (Ray's ``worker_process_setup_hook``)."""

import fcntl
import os
import socket
import struct

import ray

from ophnet_ray.distributed.private import PRIVATE_VARIABLE, keep_worker_private

_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


def set_up_worker() -> None:
    """Set up a worker process of a run, wherever in the cluster it starts."""
    if PRIVATE_VARIABLE in os.environ:
        keep_worker_private()
    use_interface_of_cluster()


def use_interface_of_cluster() -> None:
    """Let gloo connect workers through the network of the cluster.

    By default gloo resolves the machine's name: often to a loopback address, which workers on other
    nodes cannot reach, or to an outer address although a local Ray listens on loopback only. A
    value that the user set stays.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        name = _interface_of(ray.util.get_node_ip_address())
        if name:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def _interface_of(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
