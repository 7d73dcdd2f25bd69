"""Files that are there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(folder: Path, name: Callable[[], str]) -> Iterator[BinaryIO]:
    """A file of its own to write to, which takes its name once all is on disk.

    Until then it is called ``.new.<random>``; a killed writer leaves it under that name.

    Args:
        folder: Where to.
        name: Asked for when all is written: it may depend on what was.
    """
    # not tempfile, whose files nobody else may read: the user's umask decides
    temporary = folder / f".new.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name())
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever is killed."""
    with open_atomically(path.parent, lambda: path.name) as file:
        file.write(data)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file so that it is there whole or not at all; two copies do not meet."""
    with (
        open_atomically(target.parent, lambda: target.name) as file,
        source.open("rb") as content,
    ):
        shutil.copyfileobj(content, file)
