"""Files that are there whole or not at all."""

import os
import shutil
import tempfile
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
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".new.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes 0600, which other users' runs cannot read
        Path(temporary).replace(folder / name())
    finally:
        Path(temporary).unlink(missing_ok=True)


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
