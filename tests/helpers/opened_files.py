"""Record of who opens a file: whatever process, Python or compiled code (Linux's inotify)."""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN = 0x20
EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def record_opens(path: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how often the file was opened since this began."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK)
    if descriptor < 0 or _libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    count = 0

    def opened() -> int:
        nonlocal count
        while True:
            try:
                # a watched file's events carry no name: each is as long as the structure
                events = os.read(descriptor, EVENT.size * 64)
            except BlockingIOError:
                return count
            count += sum(event[1] & IN_OPEN > 0 for event in EVENT.iter_unpack(events))

    try:
        yield opened
    finally:
        os.close(descriptor)
