"""A run's folder in a bucket, and the copy of it that a machine works on.

The bucket is the original. At its start a run fetches what the bucket holds, on any machine, and
sends each finished file there. A checkpoint's manifest goes last: a reader ignores a checkpoint
without one. What a killed run had not sent yet is computed again.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ophnet_ray.models.checkpoints import CHECKPOINT_FILE, DAMAGED, MANIFEST_FILE, read_intact
from ophnet_ray.storage.bucket_locks import BucketClaim, claimed_in_bucket
from ophnet_ray.storage.files import (
    FileStatus,
    delete_object,
    download,
    list_objects,
    read_bytes,
    upload,
)
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.local_copies import mark_copy
from ophnet_ray.storage.locks import Tell, exclusive
from ophnet_ray.storage.paths import join
from ophnet_ray.train.run_paths import CHECKPOINTS, METRICS, PICTURES, ROLLBACKS


@dataclass(slots=True)
class RunMirror:
    """A folder of this machine and its original in a bucket.

    ``folder`` and ``uri`` name the two. Each process remembers what it has sent. Once a driver
    holds the lock of the original, ``claim`` is its proof: without it, nothing is sent.
    """

    folder: Path
    uri: str
    claim: BucketClaim | None = None
    _sent: dict[str, FileStatus] = field(default_factory=dict)

    @contextmanager
    def locked(self, busy: str, tell: Tell) -> Iterator[None]:
        """Keep the drivers of other machines out, and fetch what the bucket holds.

        Args:
            busy: Error message if another driver works on the run.
            tell: Receives a line when the lock is watched or lost, and when there is none.

        Raises:
            UserError: Another driver works on the run.
            StorageError: The bucket does not answer.
        """
        with claimed_in_bucket(self.uri, busy, tell) as self.claim:
            self.fetch()
            yield

    def fetch(self) -> None:
        """Make the folder equal to the bucket.

        A checkpoint that is intact here and has the same manifest there is not fetched again.

        Raises:
            StorageError: The bucket does not answer.
        """
        with self._alone():
            listed = list_objects(self.uri, recursive=True)
            self._drop_absent(set(listed))
            for name in sorted(listed):
                if not _is_hidden(name) and not name.startswith(f"{CHECKPOINTS}/"):
                    self._fetch(name)
            self._fetch_checkpoints(listed)

    def fetch_checkpoints(self) -> None:
        """Make checkpoints, metrics, rollbacks and pictures equal to the bucket; leave open logs.

        Raises:
            LostLockError: Another machine has taken the run over.
            StorageError: The bucket does not answer.
        """
        self._check_claim()
        with self._alone():
            found = list_objects(join(self.uri, CHECKPOINTS), recursive=True)
            listed = {f"{CHECKPOINTS}/{name}": status for name, status in found.items()}
            self._drop_absent(set(listed))
            self._fetch_checkpoints(listed)
            for name in sorted({METRICS, ROLLBACKS} & set(list_objects(self.uri))):
                self._fetch(name)
            for name in sorted(list_objects(join(self.uri, PICTURES))):
                if not (self.folder / PICTURES / name).exists():  # they never change
                    self._fetch(f"{PICTURES}/{name}")

    def send(self, *paths: Path) -> None:
        """Send files, and the files in folders, that have changed since they were sent.

        Raises:
            LostLockError: Another machine has taken the run over.
            StorageError: After all attempts; it names the cure.
        """
        self._check_claim()
        for path in paths:
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            for file in files:
                if file.is_file() and not _is_hidden(self._name_of(file)):
                    self._send(file)

    def send_checkpoints(self) -> None:
        """Send the checkpoints that the bucket lacks, then delete those that are not here any more.

        Of a run that another machine has taken over, only an object whose transfer had begun may
        still be written: names carry no number of the lock. If it is the file of a checkpoint that
        the other machine has, too, its checksum is wrong, and the run resumes from the one before.

        Raises:
            LostLockError: Another machine has taken the run over.
            StorageError: After all attempts; it names the cure.
        """
        self._check_claim()
        folder = self.folder / CHECKPOINTS
        whole = [path.parent for path in sorted(folder.rglob(MANIFEST_FILE))]
        kept = [path for path in whole if not _is_hidden(self._name_of(path))]
        for checkpoint in kept:
            if self._send(checkpoint / CHECKPOINT_FILE):
                self._check_claim()  # minutes may have passed
            if self._send(checkpoint / MANIFEST_FILE):
                self._check_claim()
        here = {self._name_of(checkpoint) for checkpoint in kept}
        listed = list_objects(join(self.uri, CHECKPOINTS), recursive=True)
        # the manifest first: without it a checkpoint does not exist
        for name in sorted(listed, key=lambda name: not name.endswith(MANIFEST_FILE)):
            if f"{CHECKPOINTS}/{name.rpartition('/')[0]}" not in here:
                # what was listed while this run held the lock is its own
                self._check_claim()
                delete_object(join(self.uri, f"{CHECKPOINTS}/{name}"))

    def _check_claim(self) -> None:
        if self.claim is not None:
            self.claim.check()

    def _send(self, file: Path) -> bool:
        """Send a file; return False if the bucket has it."""
        name, status = self._name_of(file), file.stat()
        now = FileStatus(status.st_size, status.st_mtime_ns)
        if self._sent.get(name) == now:
            return False
        try:
            upload(file, join(self.uri, name))
        except StorageError as error:
            raise StorageError(
                f"{error}; when that is mended, the same command resumes from the last checkpoint "
                "in the bucket"
            ) from error
        self._sent[name] = now
        return True

    def _fetch(self, name: str) -> None:
        target = self.folder / name
        download(join(self.uri, name), target)
        status = target.stat()
        self._sent[name] = FileStatus(status.st_size, status.st_mtime_ns)

    def _fetch_checkpoints(self, listed: dict[str, FileStatus]) -> None:
        for name in sorted(listed):
            if name.startswith(f"{CHECKPOINTS}/") and name.endswith(f"/{MANIFEST_FILE}"):
                folder = name.removesuffix(MANIFEST_FILE)
                data = f"{folder}{CHECKPOINT_FILE}"
                if _is_damaged(name) or data not in listed:
                    continue
                if not self._is_same(name, data, listed[data]):
                    self._fetch(data)
                    self._fetch(name)

    def _is_same(self, manifest: str, data: str, there: FileStatus) -> bool:
        here, file = self.folder / manifest, self.folder / data
        if not (here.is_file() and file.is_file() and file.stat().st_size == there.size_bytes):
            return False
        if here.read_bytes() != read_bytes(join(self.uri, manifest)):
            return False
        if read_intact(here.parent) is None:
            return False  # this machine's copy is damaged
        for name in (manifest, data):
            status = (self.folder / name).stat()
            self._sent[name] = FileStatus(status.st_size, status.st_mtime_ns)
        return True

    def _drop_absent(self, listed: set[str]) -> None:
        """Delete the checkpoints of this machine that the bucket does not hold whole.

        Damaged ones stay: they are sent with the next checkpoint.
        """
        for manifest in list((self.folder / CHECKPOINTS).rglob(MANIFEST_FILE)):
            name = self._name_of(manifest)
            if name not in listed and not _is_damaged(name):
                shutil.rmtree(manifest.parent)

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process of this machine after the other work on the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".fetching"):
            mark_copy(self.folder, self.uri)
            yield


def _is_damaged(name: str) -> bool:
    return name.startswith(f"{CHECKPOINTS}/{DAMAGED}/")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
