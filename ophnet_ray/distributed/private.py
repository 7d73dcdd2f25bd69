"""Privacy of a run (``--private``): umask, command line, and lines in the logs of Ray's workers.

Ray writes what a worker prints to files of its own, and its dashboard serves them, like the command
line of the driver. Importing this module loads no Ray.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_VARIABLE = "OPHNET_RAY_PRIVATE"
"""Variable that tells the worker processes of a run that it is private."""
PRIVATE_UMASK = 0o077
_OWN_LOGGERS = "ophnet_ray"


@contextmanager
def private_files(is_private: bool = True) -> Iterator[None]:
    """Keep other users of the machine from reading what this process, or a child, creates.

    Args:
        is_private: False changes nothing.
    """
    before = os.umask(PRIVATE_UMASK) if is_private else None
    try:
        yield
    finally:
        if before is not None:
            os.umask(before)


def hide_arguments() -> None:
    """Replace this process's command line, which other users and the dashboard may read."""
    from ray._raylet import setproctitle  # type: ignore[attr-defined] # a compiled module

    setproctitle(f"{Path(sys.argv[0]).name} --private")


def keep_worker_private() -> None:
    """Make a worker of a private run write private files, and no data into Ray's logs.

    The daemon of a cluster that runs already has a umask of its own.
    """
    os.umask(PRIVATE_UMASK)
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(PrivateFormatter())
    logging.getLogger().addHandler(handler)


class PrivateFormatter(logging.Formatter):
    """Formatter of log lines without data: templates of messages, types and stacks of errors.

    Arguments of messages and texts of errors may name a case or a video. The messages of other
    packages are left out whole: they need not keep data and template apart.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return level, origin and template of a record, and the stack of its error."""
        is_own = record.name.partition(".")[0] == _OWN_LOGGERS
        text = record.msg if is_own else f"{record.filename}:{record.lineno}"
        lines = [f"{record.levelname} {record.name}: {text}"]
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, stack = record.exc_info
            lines += [*traceback.format_tb(stack), kind.__name__]
        return "\n".join(lines)
