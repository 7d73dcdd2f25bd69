"""What every worker process of a run on a cluster does first. Named in the job, called by Ray."""

import fcntl
import os
import socket
import struct

import ray

_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


def use_interface_of_cluster() -> None:
    """Let gloo talk to other nodes through the network that Ray knows them by.

    It would look up this machine's own name, which on many machines is a loopback address, and
    the workers would wait for each other in vain. What the user set stays.
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
