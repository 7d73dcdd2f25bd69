"""Processes of this machine: the machine's identity, and whether a process is alive."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def this_machine() -> str:
    """Return an identity of the machine since its start, and of the container of this process."""
    parts = []
    with suppress(OSError):  # no such files outside Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def is_gone(pid: int) -> bool:
    """Return True if no process of this machine, in this container, has the number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # another user's process; no number of a process
    except (PermissionError, OverflowError, TypeError):
        pass
    return False
