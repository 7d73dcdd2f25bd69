"""Binding of torch.distributed's store to the node's address in the cluster.

The store has no password. Torch alone would let it listen on every network of the machine, even if
the cluster is on loopback only.

Uses undocumented parts of Ray (``_TorchBackend`` and two functions beside it): check them when Ray
is updated.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but not listed

from ophnet_ray.distributed.environment import CUBLAS_ENVIRONMENT

_stores: list[TCPStore] = []
"""Stores of this process: a store ends with the worker of rank 0."""


@dataclass
class BoundTorchConfig(TorchConfig):
    """Ray Train's set-up of torch, with the store at the node's address in the cluster.

    ``deterministic``: True for workers whose cuBLAS must repeat its results.
    """

    deterministic: bool = False

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Class that sets up the workers."""
        return _BoundTorchBackend


class _BoundTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set the environment, open the store on the first worker, then let all workers join it."""
        timeout_s = TorchConfig.timeout_s
        if isinstance(backend_config, BoundTorchConfig):
            timeout_s = backend_config.timeout_s
            if backend_config.deterministic:
                worker_group.execute(_set_environment, CUBLAS_ENVIRONMENT)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        address, port = worker_group.execute_single(0, _open_store)
        worker_group.execute(_set_torch_distributed_env_vars)
        worker_group.execute(_name_store, address, port)
        joining = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method="env://",
                timeout_s=timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ |= variables


def _open_store() -> tuple[str, int]:
    address = ray.util.get_node_ip_address()
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    _stores.append(
        TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    )
    return address, port


def _name_store(address: str, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        # the store is open already: rank 0 joins it as the others do
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
