"""A small file system in memory, to be full: only root may mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size for as long as the context lasts; yield its folder.

    The test is skipped where it cannot be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=700"
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if mount.returncode:
        pytest.skip(f"no small file system here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(folder: Path, size_bytes: int) -> None:
    """Make more room in the file system of ``small_disk``."""
    options = f"remount,size={size_bytes}"
    subprocess.run(["mount", "-o", options, folder], check=True)
