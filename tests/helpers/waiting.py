"""Wait for a condition that another process or thread brings about."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")


def wait_until(
    holds: Callable[[], Answer],
    what: str,
    timeout_s: float = 300,
    poll_s: float = 0.05,
    details: Callable[[], object] = str,
) -> Answer:
    """Call ``holds`` until its answer is true; return that answer.

    Args:
        holds: The condition; it may raise, which ends the wait with its error.
        what: The condition in words, for the message.
        timeout_s: A bound for a hanging test, not a speed to be met: keep it generous.
        poll_s: Seconds between two calls.
        details: Text for the message, read only on failure: a log, say.

    Raises:
        AssertionError: The condition did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s {details()}"
        time.sleep(poll_s)
    return answer


def is_waited_for(lock: Path) -> bool:
    """Return True if the file is there and Linux lists a process that waits for the lock on it."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return False
    locks = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in locks)
