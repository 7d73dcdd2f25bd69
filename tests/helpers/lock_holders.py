"""Other processes that hold a lock while a test looks at it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers.paths import ROOT


@contextmanager
def holding(code: str, place: object) -> Iterator[subprocess.Popen]:
    """Run code that takes the lock of ``sys.argv[1]``, prints ``held``, and reads its stdin.

    Yields:
        The process, once it holds the lock; it is killed at the end.
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
