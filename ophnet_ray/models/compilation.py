"""Compilation of a network by torch, in place: the names of its weights in checkpoints stay."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.speed_config import CompileMode, SpeedConfig

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_MAX_REASON_CHARS = 200


def compile_network(
    network: nn.Module, cache_dir: Path, mode: CompileMode = SpeedConfig.compile_mode
) -> None:
    """Let torch compile a network at its next call, once for each shape of its input.

    Args:
        network: The network.
        cache_dir: Folder of the compiled code, unless torch's own variable names another. Torch's
            default in the system's temporary folder could be another user's.
        mode: As ``torch.compile`` has it.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(cache_dir))
    # training and validation have one shape each: code for all shapes is slower
    network.compile(dynamic=False, mode=mode)


@contextmanager
def name_compile_errors() -> Iterator[None]:
    """Reduce an error of the compiler to one line.

    Raises:
        UserError: The network cannot be compiled on this machine.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second of CPU, where nothing compiles

    try:
        yield
    except TorchDynamoException as error:
        reason = one_line(error, _MAX_REASON_CHARS)
        raise UserError(
            f"--compile: torch cannot compile the network on {socket.gethostname()}: {reason}; "
            "install a C++ compiler if there is none, or leave --compile out"
        ) from None
