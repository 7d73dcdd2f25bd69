"""Space on the disks of this machine: what will be written there, and whether it fits."""

import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that will be written below a folder.

    Attributes:
        what: Things and the flag that names the place, e.g. ``3 checkpoints (--storage_path)``.
        folder: The folder; it need not exist yet.
        size_bytes: Their size.
    """

    what: str
    folder: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """A disk on which needs do not fit together; ``str(shortage)`` names all figures in bytes.

    ``folder`` is one on that disk.
    """

    folder: Path
    needs: tuple[Need, ...]
    free_bytes: int

    def __str__(self) -> str:
        """Return the needs, their sum if there are several, and what is free."""
        parts = " + ".join(f"{need.size_bytes:,} bytes for {need.what}" for need in self.needs)
        total = sum(need.size_bytes for need in self.needs)
        total_text = f" = {total:,} bytes" if len(self.needs) > 1 else ""
        return f"{parts}{total_text}, but the disk of {self.folder} has {self.free_bytes:,} free"


def find_shortages(needs: Iterable[Need]) -> list[Shortage]:
    """Return the disks that are too small, with all that is to be written there.

    A file system that does not tell its size counts as large enough.
    """
    by_disk: dict[int, list[Need]] = defaultdict(list)
    for need in needs:
        if need.size_bytes:
            by_disk[nearest_folder(need.folder).stat().st_dev].append(need)
    shortages = []
    for members in by_disk.values():
        folder = nearest_folder(members[0].folder)
        disk = shutil.disk_usage(folder)
        # some network file systems do not tell their size
        if disk.total and sum(need.size_bytes for need in members) > disk.free:
            shortages.append(Shortage(folder, tuple(members), disk.free))
    return shortages


def nearest_folder(path: Path) -> Path:
    """Return the path, or the first folder above it that exists."""
    absolute = path.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.is_dir())
