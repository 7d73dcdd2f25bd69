"""Copies of the small files of all runs in a bucket, for a listing: in a folder of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ophnet_ray.storage.files import FileStatus, download, list_objects
from ophnet_ray.storage.paths import join
from ophnet_ray.train.listed_run import MAX_BYTES
from ophnet_ray.train.run_listing import SMALL_FILES

REPORT = "report.html"
_DEPTHS = (2, 4)
"""Parts of the path of a run's file, and of a trial's."""
_THREADS = 16


@contextmanager
def fetched_runs(uri: str) -> Iterator[Path]:
    """Fetch the small files of the runs in a bucket; nothing is written there.

    Of a report only the name is here. Checkpoints are not fetched.

    Raises:
        StorageError: The bucket does not answer.
    """
    listed = list_objects(uri, recursive=True)
    chosen = {name for name, status in listed.items() if _is_wanted(name, status)}
    with TemporaryDirectory(prefix="ophnet-runs-") as folder:
        root = Path(folder)
        for name in chosen:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if PurePosixPath(name).name == REPORT:
                (root / name).touch()
        small = [name for name in sorted(chosen) if PurePosixPath(name).name != REPORT]
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda name: download(join(uri, name), root / name), small):
                pass
        yield root


def _is_wanted(name: str, status: FileStatus) -> bool:
    """Return True for the files of runs and trials; a name may not lead out of the folder."""
    parts = PurePosixPath(name).parts
    if len(parts) not in _DEPTHS or {"..", "/"} & set(parts) or "\0" in name:
        return False
    return parts[-1] == REPORT or (parts[-1] in SMALL_FILES and status.size_bytes <= MAX_BYTES)
