"""Faults at the k-th file-system call of a piece of work: the process is killed, or the disk fails.

The work runs in a child process. Calls of Python are counted: open, write, fsync, rename, remove,
mkdir and the like, if they change something.
"""

import builtins
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ophnet_ray.errors import UserError

Fault = Literal["kill", "ENOSPC", "EIO"]
FAULTS: tuple[Fault, ...] = ("kill", "ENOSPC", "EIO")
_EVENTS = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.chmod",
    "os.link", "os.symlink",
}  # fmt: skip
_NEEDS_ROOM = {"open", "write", "os.mkdir", "fsync", "os.rename", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

DONE, REFUSED, FAILED_CALL, OTHER = 0, 10, 11, 12
"""Exit codes of the child: the work is done; a ``UserError``; the error of the call; another."""


def count_calls(work: Callable[[], object], folder: Path) -> int:
    """Return the number of calls of the work in the folder; it is done, in a child.

    Raises:
        RuntimeError: The work fails without any fault.
    """
    number, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        counter = _Counter(folder, "EIO", 0)
        _run_child(work, counter, lambda: os.write(report, str(counter.num_calls).encode()))
    os.close(report)
    with os.fdopen(number) as file:
        num_calls = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != DONE:
        raise RuntimeError("the work fails without a fault")
    return int(num_calls)


def run_with_fault(work: Callable[[], object], folder: Path, fault: Fault, k: int) -> int:
    """Do the work in a child whose k-th call (from 1) in the folder fails.

    A full disk stays full: all later calls that need room fail, too.

    Returns:
        The child's exit code, negative for a signal.
    """
    pid = os.fork()
    if pid == 0:
        _run_child(work, _Counter(folder, fault, k))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Counter:
    """Count of the calls below a folder, and the fault at one of them."""

    def __init__(self, folder: Path, fault: Fault, k: int) -> None:
        self.folder, self.fault, self.k = str(folder), fault, k
        self.num_calls = 0

    def pass_by(self, call: str, path: object) -> None:
        """Count a call; fail if it is its turn."""
        if not str(path).startswith(self.folder):
            return
        self.num_calls += 1
        if self.fault == "kill" and self.num_calls == self.k:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "EIO" and self.num_calls == self.k:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        if self.fault == "ENOSPC" and 0 < self.k <= self.num_calls and call in _NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class _CountedFile(io.FileIO):
    """An open file whose writes are counted, each before it happens."""

    counter: _Counter

    def write(self, data: Any) -> int:
        """Write half of the data first: a kill leaves half of it."""
        view = memoryview(data).cast("B")
        half = len(view) // 2
        if half:
            super().write(view[:half])
        self.counter.pass_by("write", _path_of(self.fileno()))
        return half + (super().write(view[half:]) or 0)


def _run_child(
    work: Callable[[], object], counter: _Counter, at_end: Callable[[], object] = lambda: None
) -> None:
    code = OTHER
    try:
        _count_calls(counter)
        work()
        code = DONE
        at_end()
    except UserError:
        code = REFUSED
    except OSError as error:
        code = FAILED_CALL if error.errno in (errno.EIO, errno.ENOSPC) else OTHER
        if code == OTHER:
            traceback.print_exc()
    except BaseException:  # noqa: BLE001 - the exit code tells it
        traceback.print_exc()
    finally:
        os._exit(code)


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _audited_path(event: str, arguments: tuple[Any, ...]) -> str:
    """Return the path of an event; shutil.rmtree names files relative to an open folder."""
    if isinstance(arguments[0], int):  # of an open file
        return _path_of(arguments[0])
    path = os.fspath(arguments[0])
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    return f"{_path_of(folder)}/{path}" if folder >= 0 else str(path)


def _count_calls(counter: _Counter) -> None:
    """Have this process count its calls, for good."""
    real_open, real_fdopen, real_fsync, real_os_open = io.open, os.fdopen, os.fsync, os.open

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            counter.pass_by(event, _audited_path(event, arguments))

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        is_written = bool(set(mode) & set("wxa+"))
        opener = options.get("opener")
        if is_written and opener is None and not isinstance(file, int):
            counter.pass_by("open", file)  # an opener counts itself
        if not is_written or "b" not in mode:
            return real_open(file, mode, *rest, **options)
        raw = _CountedFile(file, mode.replace("b", ""), opener=opener)
        raw.counter = counter
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    def os_opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & _WRITES:
            counter.pass_by("open", path)
        return real_os_open(path, flags, *rest, **options)

    def synced(descriptor: int) -> None:
        counter.pass_by("fsync", _path_of(descriptor))
        real_fsync(descriptor)

    sys.addaudithook(audit)
    io.open = builtins.open = opened
    os.open, os.fsync = os_opened, synced
    os.fdopen = lambda fd, mode="r", *rest, **options: (
        opened(fd, mode, *rest, **options) if "b" in mode else real_fdopen(fd, mode, *rest)
    )
