"""The folder of a run: what was asked, what was used, what came out."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ophnet_ray.config import Config, dump_config
from ophnet_ray.data.annotations import Reject
from ophnet_ray.data.passport import Passport
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import ensure_writable, write_atomically
from ophnet_ray.storage.filesystems import filesystem_of
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import bucket_path
from ophnet_ray.train.run_mirror import RunMirror


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Names of what lies in ``<storage_path>/<name>``.

    Of a run in a bucket, ``path`` is the copy that this machine works on; what is written here goes
    to the bucket, too.
    """

    path: Path
    mirror: RunMirror | None = None

    @property
    def location(self) -> str:
        """Where a person finds the run."""
        return self.mirror.uri if self.mirror else str(self.path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def config(self) -> Path:
        """The settings, as ``--config`` reads them."""
        return self.path / "config.yaml"

    @property
    def passport(self) -> Path:
        """What data went in."""
        return self.path / "passport.json"

    @property
    def rejects(self) -> Path:
        """Rows that are not used, and why."""
        return self.path / "rejects.csv"

    @property
    def scores(self) -> Path:
        """The score card of the best epoch."""
        return self.path / "scores.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def result(self) -> Path:
        """The final scores; it exists once the run is complete."""
        return self.path / "result.json"

    @property
    def logs(self) -> Path:
        """Full logs, one file a process."""
        return self.path / "logs"

    def create(self) -> None:
        """Make the folder.

        Raises:
            UserError: It cannot be made or written.
        """
        try:
            ensure_writable(self.logs)
        except OSError as error:
            raise UserError(
                f"--storage_path {self.path.parent} cannot be written: {error.strerror or error}"
            ) from error

    def enter(self) -> None:
        """Be ready for another process of the run, on this machine or another one.

        Raises:
            StorageError: The bucket does not answer.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.mirror:
            self.mirror.fetch_checkpoints()

    def send(self, *paths: Path) -> None:
        """Send files and folders to the bucket, if the run lies in one: what has changed of them.

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

    def shared_place(self) -> tuple[str, Any]:
        """Path and file system under which all machines find the folder; None: their own."""
        if self.mirror is None:
            return str(self.path), None
        return bucket_path(self.mirror.uri), filesystem_of(self.mirror.uri)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers of this machine out; the lock goes with the process, however it ends.

        A run in a bucket takes over what the bucket holds, and sends at the end what is new.

        Raises:
            UserError: Another process is at work on this run.
            StorageError: The bucket does not answer.
        """
        busy = (
            f"the run {self.location} is being trained by another process; "
            "wait for it, or choose another --name"
        )
        with exclusive(self.path / ".lock", busy=busy):
            if self.mirror:
                self.mirror.fetch()
            try:
                yield
            except BaseException:
                with suppress(OSError):  # the first error is the one to tell
                    self._send_rest()
                raise
            self._send_rest()

    def _send_rest(self) -> None:
        """What the driver alone has: its log, and files of whatever came after training."""
        self.send(self.logs / "driver.log", *(p for p in self.path.iterdir() if p.is_file()))

    def check_same(self, config: Config, data_hash: str) -> None:
        """Make sure that the folder is new, or holds this very run.

        Raises:
            UserError: Another run lies there; the differences are named.
        """
        if not self.config.exists():
            return
        before = yaml.safe_load(self.config.read_text())
        now = config.identity()
        changes = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v]
        if self.read_passport().data_hash != data_hash:
            changes.append("the rows of the CSV, their split or the videos")
        self._refuse(changes)

    def check_passport(self, passport: Passport) -> None:
        """Make sure that a run that is resumed goes on with the same rows on the same devices.

        Raises:
            UserError: It would not; the differences are named.
        """
        if not self.passport.exists():
            return
        before, now = self.read_passport(), passport.resources
        changes = [
            f"{name} {value} -> {now[name]}"
            for name, value in before.resources.items()
            if now[name] != value
        ]
        if before.used_hash != passport.used_hash:
            changes.append(f"{before.rows_used} -> {passport.rows_used} usable rows")
        self._refuse(changes)

    def read_resources(self) -> dict[str, Any]:
        """What the run takes of a cluster, as it was when it began; empty before."""
        if not self.passport.exists():
            return {}
        return self.read_passport().resources

    def read_passport(self) -> Passport:
        """Read the account of the data."""
        return Passport.from_dict(json.loads(self.passport.read_text()))

    def _refuse(self, changes: list[str]) -> None:
        if changes:
            raise UserError(
                f"the run {self.location} was started with other settings ({'; '.join(changes)}); "
                "choose another --name, or delete the folder"
            )

    def write_config(self, config: Config) -> None:
        """Keep the settings."""
        self._write(self.config, dump_config(config))

    def write_passport(self, passport: Passport) -> None:
        """Keep the account of the data."""
        self._write(self.passport, json.dumps(passport.to_dict(), indent=1))

    def write_rejects(self, rejects: Sequence[Reject]) -> None:
        """List the rows that are not used."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["segment_id", "video", "start", "end", "phase", "split", "reason", "kind"])
        for reject in rejects:
            s = reject.segment
            writer.writerow(
                [
                    s.segment_id,
                    s.video,
                    s.start_s,
                    s.end_s,
                    s.phase,
                    s.split,
                    reject.reason,
                    reject.kind,
                ]
            )
        self._write(self.rejects, text.getvalue())

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write all epochs so far; whole, so that a restart neither loses nor repeats one."""
        lines = "".join(json.dumps(epoch) + "\n" for epoch in history)
        self._write(self.metrics, lines)

    def read_metrics(self) -> list[dict[str, float]]:
        """All epochs so far."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Mark the run as complete."""
        self._write(self.result, json.dumps(result, indent=1))

    def read_result(self) -> dict[str, Any] | None:
        """The final scores, or None while the run is not complete."""
        if not self.result.exists():
            return None
        result: dict[str, Any] = json.loads(self.result.read_text())
        return result

    def _write(self, path: Path, text: str) -> None:
        write_atomically(path, text.encode())
        self.send(path)
