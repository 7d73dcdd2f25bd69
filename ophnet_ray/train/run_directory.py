"""The folder of a run: its settings, data, progress and result, on disk or in a bucket."""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.config import CONTENT_SETTINGS, Config
from ophnet_ray.data.passport import Passport
from ophnet_ray.data.segments import Reject
from ophnet_ray.errors import UserError
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage.access import ensure_writable
from ophnet_ray.storage.files import delete_object, write_atomically
from ophnet_ray.storage.filesystems import filesystem_of
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.locks import Tell, exclusive
from ophnet_ray.storage.paths import bucket_path, is_remote, join, plain_uri
from ophnet_ray.storage.records import (
    DamagedFileError,
    dump_record,
    dump_yaml_record,
    read_record,
    read_yaml_record,
)
from ophnet_ray.storage.unfinished import delete_unnamed
from ophnet_ray.train.run_mirror import RunMirror
from ophnet_ray.train.run_paths import RunPaths

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """Best epoch of a complete run, as ``result.json`` holds it.

    Attributes:
        checkpoint: Path below the run's folder.
        best_epoch: Counted from 1.
        scores: Validation scores of that epoch.
        metrics_sha256: Checksum of ``metrics.jsonl``; empty in runs of earlier versions.
    """

    checkpoint: str
    best_epoch: int
    scores: dict[str, float]
    metrics_sha256: str = ""


@dataclass(frozen=True, slots=True)
class RunDirectory(RunPaths):
    """Files of a run, read and written.

    Of a run in a bucket, ``path`` is the copy that this machine works on. What is written there
    goes to the bucket, too.
    """

    mirror: RunMirror | None = None

    @property
    def location(self) -> str:
        """Path or URI under which a person finds the run."""
        return self.mirror.uri if self.mirror else str(self.path)

    @property
    def is_in_bucket(self) -> bool:
        """True if the run lies in a bucket, and ``path`` is a copy."""
        return self.mirror is not None

    def name_below(self, storage_path: str) -> str:
        """Return ``<run>``, or ``<search>/trials/<number>`` for a trial."""
        if self.mirror:
            return self.name
        return self.path.relative_to(storage_path).as_posix()

    def create(self) -> None:
        """Create the folder.

        Raises:
            UserError: It cannot be created or written.
        """
        try:
            ensure_writable(self.logs)
        except OSError as error:
            raise UserError(
                f"--storage_path {self.path.parent} cannot be written: {error.strerror or error}"
            ) from error

    def enter(self) -> None:
        """Prepare for another process of the run, on this machine or another one.

        Raises:
            StorageError: The bucket does not answer.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.mirror:
            self.mirror.fetch_checkpoints()

    def send(self, *paths: Path) -> None:
        """Send what has changed of files and folders to the bucket, if the run lies in one.

        Raises:
            StorageError: The bucket does not take them.
        """
        if self.mirror:
            self.mirror.send(*paths)

    def send_checkpoints(self) -> None:
        """Make the bucket's checkpoints those of this machine.

        Raises:
            StorageError: The bucket does not take them.
        """
        if self.mirror:
            self.mirror.send_checkpoints()

    def shared_location(self) -> tuple[str, Any]:
        """Return (path, file system) reachable from every node; None: a path that all share."""
        if self.mirror is None:
            return str(self.path), None
        return bucket_path(self.mirror.uri), filesystem_of(self.mirror.uri)

    def delete_ray_snapshot(self) -> None:
        """Delete Ray Train's own list of checkpoints, here and in the bucket."""
        self.ray_snapshot.unlink(missing_ok=True)
        if self.mirror:
            delete_object(join(self.mirror.uri, self.ray_snapshot.name))

    @contextmanager
    def locked(self, tell: Tell = logger.warning, patience_s: float = 0.0) -> Iterator[None]:
        """Keep other drivers out, on all machines if the run lies in a bucket, until this one ends.

        A run in a bucket first fetches what the bucket holds, and at the end sends what is new.

        Args:
            tell: Receives a line when the bucket's lock is watched, when there is none, and when a
                lock is lost.
            patience_s: Seconds to wait for another driver on this machine, which may be ending.

        Raises:
            UserError: Another process is working on this run.
            StorageError: The bucket does not answer.
        """
        busy = (
            f"the run {plain_uri(self.location)} is being trained by another process; "
            "wait for it, or choose another --name"
        )
        with ExitStack() as held:
            held.enter_context(exclusive(self.lock, busy=busy, tell=tell, patience_s=patience_s))
            delete_unnamed(self.path)
            if self.mirror:
                held.enter_context(self.mirror.locked(busy, tell))
            try:
                yield
            except BaseException:
                with suppress(OSError):  # the first error is the one to report
                    self._send_rest()
                raise
            self._send_rest()

    def _send_rest(self) -> None:
        """Send what the driver alone has: its log, and the files written after training."""
        self.send(self.driver_log, *(path for path in self.path.iterdir() if path.is_file()))

    def read_passport(self) -> Passport:
        """Read the account of the data.

        Raises:
            DamagedFileError: Its checksum is another one, or entries are missing.
        """
        cure = "delete it to accept the data as they are now, and give the same command again"
        return read_record(self.passport, Passport.from_dict, cure)

    def write_passport(self, passport: Passport) -> None:
        """Write the account of the data."""
        self._write(self.passport, dump_record(passport.to_dict()))

    def read_resources(self) -> dict[str, Any]:
        """Read what the run took of a cluster when it began; empty for a new run."""
        if not self.passport.exists():
            return {}
        return self.read_passport().resources

    def write_config(self, config: Config) -> None:
        """Write the settings."""
        identity = config.identity()
        for name in CONTENT_SETTINGS:
            if getattr(config.model, name) is not None:
                self._write(self.content_hash(name), f"{identity[name]}\n".encode())
        self._write(self.config, dump_yaml_record(dump_config(config)))

    def read_config(self) -> dict[str, Any]:
        """Read the settings that the run began with.

        Raises:
            DamagedFileError: They were changed since.
        """
        return read_yaml_record(
            self.config,
            "a run keeps the settings that it began with: put them back, or choose another --name",
        )

    def write_rejects(self, rejects: Sequence[Reject]) -> None:
        """Write the rows that are not used."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["segment_id", "video", "start", "end", "phase", "split", "reason"])
        for reject in rejects:
            row = reject.segment
            what = (row.segment_id, row.video, row.start_s, row.end_s, row.phase, row.split)
            writer.writerow([*what, reject.reason])
        self._write(self.rejects, text.getvalue().encode())

    def read_rejects(self) -> dict[str, str]:
        """Read the reasons of the rows that are not used, by segment id."""
        if not self.rejects.exists():
            return {}
        with self.rejects.open(newline="") as file:
            return {row["segment_id"]: row["reason"] for row in csv.DictReader(file)}

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write all epochs so far, whole: a restart neither loses nor repeats one."""
        lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
        self._write(self.metrics, lines.encode())

    def read_metrics(self) -> list[dict[str, float]]:
        """Read all epochs so far.

        Raises:
            DamagedFileError: A line is no JSON object.
        """
        if not self.metrics.exists():
            return []
        try:
            history = [json.loads(line) for line in self.metrics.read_bytes().splitlines()]
            if not all(isinstance(record, dict) for record in history):
                raise ValueError("a line is no JSON object")
        except ValueError as error:
            cure = "delete it; the same command writes it again from the last checkpoint"
            raise DamagedFileError(f"{self.metrics} is damaged ({error}); {cure}") from error
        return history

    def hash_metrics(self, num_epochs: int | None = None) -> str:
        """Return the checksum of the first lines of ``metrics.jsonl``; empty without the file."""
        if not self.metrics.exists():
            return ""
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        return hashlib.sha256(b"".join(lines[:num_epochs])).hexdigest()

    def write_result(self, result: RunResult) -> None:
        """Mark the run as complete."""
        self._write(self.result, dump_record(asdict(result)))

    def read_result(self) -> RunResult | None:
        """Read the result; None while the run is not complete.

        Raises:
            DamagedFileError: Its checksum is another one, or entries are missing.
        """
        if not self.result.exists():
            return None
        cure = "delete it; the same command writes it again"
        return read_record(self.result, lambda values: RunResult(**values), cure)

    def _write(self, path: Path, content: bytes) -> None:
        write_atomically(path, content)
        self.send(path)


def locate_run(storage_path: str, name: str, local_dir: str | None) -> RunDirectory:
    """Return the folder of a run; of one in a bucket, with this machine's copy.

    Args:
        storage_path: Folder of all runs, absolute or a URI.
        name: Name of the run.
        local_dir: Value of ``--local_cache_dir``, for the copy.
    """
    if not is_remote(storage_path):
        return RunDirectory(Path(storage_path) / name)
    copy = local_folder(storage_path, local_dir) / name
    return RunDirectory(copy, RunMirror(copy, join(storage_path, name)))
