"""What every worker process of a run does first. Named in the job, called by Ray."""

import fcntl
import os
import socket
import struct

import ray

_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


def use_interface_of_cluster() -> None:
    """Let gloo talk to other workers through the network that Ray knows their nodes by.

    It would look up this machine's own name: on many machines a loopback address, where workers
    on other nodes wait in vain; on others an outer one, though a local Ray keeps to loopback.
    What the user set stays.
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
