"""A bucket that goes away or answers badly while a run sends its checkpoints.

A proxy stands between the run and moto's server. The run is a process that keeps a checkpoint per
epoch; after a clean failure, the same command on another machine completes it.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ophnet_ray.storage.files import list_objects, read_bytes
from ophnet_ray.storage.paths import join
from tests.helpers.bucket import Bucket, running_bucket
from tests.helpers.paths import ROOT
from tests.reliability.outcome import Outcome

EPOCHS = 3
WEIGHT_BYTES = 1_500_000
WORK = """
import json, sys, time
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.train.run_directory import locate_run
from tests.reliability.bucket_faults import EPOCHS, keep_epoch
run = locate_run(sys.argv[1], "run", sys.argv[2])
run.create()
try:
    with run.locked(lambda line: None):
        first = len(find_checkpoints(run.checkpoints))
        for epoch in range(first, EPOCHS):
            print(epoch, flush=True)
            sys.stdin.readline()
            started_s = time.monotonic()
            keep_epoch(run.checkpoints, epoch)
            run.send_checkpoints()
            print(json.dumps({"epoch": epoch, "seconds": time.monotonic() - started_s}), flush=True)
except StorageError as error:
    print(f"failed: {error}", flush=True)
    sys.exit(1)
"""


class Wire:
    """A TCP proxy in front of a server.

    Attributes:
        is_away: Connections are reset.
        num_cuts: So many of the next connections are reset after ``CUT_BYTES`` of an answer or a
            body.
    """

    CUT_BYTES = 100_000

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.is_away, self.num_cuts = False, 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            passed = {client: 0, server: 0}
            while not self.is_away:
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65_536)
                    if not data:
                        return
                    passed[source] += len(data)
                    if self.num_cuts and passed[source] > self.CUT_BYTES:
                        self.num_cuts -= 1
                        return
                    (server if source is client else client).sendall(data)


@dataclass(frozen=True)
class Fault:
    """Event during the second epoch, and whether the run must ride it out."""

    begin: Callable[[Wire, Bucket], None]
    is_ridden_out: bool = True


def _go_away(seconds: float) -> Callable[[Wire, Bucket], None]:
    def begin(wire: Wire, bucket: Bucket) -> None:
        wire.is_away = True
        threading.Timer(seconds, lambda: setattr(wire, "is_away", False)).start()

    return begin


FAULTS = {
    "s3_away_10s": Fault(_go_away(10)),
    "s3_away_60s": Fault(_go_away(60), is_ridden_out=False),
    "s3_503": Fault(lambda wire, bucket: bucket.fail_puts(4)),
    "s3_cut_bodies": Fault(lambda wire, bucket: setattr(wire, "num_cuts", 3)),
}


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Let a fault happen ``n`` times."""
    outcome, fault = Outcome(), FAULTS[name]
    with running_bucket(is_quiet=True) as bucket:
        wire = Wire(urlsplit(bucket.endpoint).port)
        for i in range(n):
            place = Bucket(wire.endpoint).uri(f"{i}/runs")
            try:
                seconds, redone = _train(fault, wire, bucket, place, folder / str(i))
                _judge(bucket.uri(f"{i}/runs"))
            except AssertionError as error:
                outcome.fail(str(error)[:60], str(error))
            else:
                outcome.add("one line, then completed" if redone else "ridden out")
                outcome.samples.setdefault("recovery_s", []).append(seconds)
                outcome.samples.setdefault("steps_redone", []).append(redone)
    return outcome


def _train(
    fault: Fault, wire: Wire, bucket: Bucket, storage: str, folder: Path
) -> tuple[float, int]:
    """Return the seconds until the checkpoint that met the fault was sent, and epochs redone."""
    process = _start(storage, folder / "one")
    begun: list[int] = []
    began_s = 0.0
    for line in process.stdout:
        if line.startswith("{"):
            if json.loads(line)["epoch"] == 1:
                sent_s = time.monotonic() - began_s
        elif line.startswith("failed: "):
            failure = line
        else:
            begun.append(int(line))
            if begun[-1] == 1:
                began_s = time.monotonic()
                fault.begin(wire, bucket)
            process.stdin.write("\n")
            process.stdin.flush()
    code = process.wait(timeout=300)
    if fault.is_ridden_out or code == 0:
        assert code == 0, f"exit code {code}: {failure}"
        return sent_s, 0
    assert code == 1, "it should have failed"
    assert "the same command resumes" in failure or "does not answer" in failure, failure
    while wire.is_away:
        time.sleep(0.1)
    again = replace(fault, begin=lambda wire, bucket: None, is_ridden_out=True)
    _, _ = _train(again, wire, bucket, storage, folder)
    return time.monotonic() - began_s, 1


def _start(storage: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, storage, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def keep_epoch(checkpoints: Path, epoch: int) -> None:
    """Keep a checkpoint whose content is a function of its epoch."""
    from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file

    file = temporary_file(checkpoints, epoch)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_content_of(epoch))
    commit_checkpoint(checkpoints, epoch, {"val_macro_f1": 0.5, "val_loss": 1.0})


def _content_of(epoch: int) -> bytes:
    return bytes([epoch]) * WEIGHT_BYTES


def _judge(storage: str) -> None:
    """Compare all checkpoints in the bucket with what was computed."""
    checkpoints = join(storage, "run/checkpoints")
    names = list_objects(checkpoints, recursive=True)
    for epoch in range(EPOCHS):
        name = f"epoch={epoch:04d}"
        assert f"{name}/manifest.json" in names, f"{name} is not in the bucket"
        content = read_bytes(join(checkpoints, f"{name}/checkpoint.ckpt"))
        assert content == _content_of(epoch), f"{name} differs"
