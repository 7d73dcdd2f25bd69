"""Somebody else: another user of this machine, and the author of a CSV.

Neither a token, nor a signed request, nor a file of this machine reaches them. Root plays the other
user; without root, these cases cannot run.
"""

import http.server
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.ownership import check_token_file, create_token, own_ray_folder
from tests.helpers.bucket import CREDENTIALS
from tests.helpers.paths import ROOT, TRAIN_PY
from tests.helpers.videos import write_color_dataset
from tests.reliability.outcome import Outcome, attempt

STRANGER = 65534
_VARIABLES = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
LISTEN = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
server.settimeout(0.2)
received = b""
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        connection, _ = server.accept()
    except TimeoutError:
        continue
    connection.settimeout(0.2)
    try:
        received += connection.recv(65536)
    except OSError:
        pass
print(len(received), flush=True)
"""
READ = """
import os, sys
os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        print("read", os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        print("denied")
"""


def run_neighbour(n: int, seed: int, folder: Path) -> Outcome:
    """Let another user prepare something for Ray ``n`` times; nothing of ours reaches the user."""
    outcome = Outcome()
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ["RAY_AUTH_MODE"] = "token"
    tricks = [_foreign_listener, _foreign_file, _open_file, _foreign_folder, _open_token]
    try:
        for i in range(n):
            place = folder / str(i)
            place.mkdir()
            os.environ["RAY_TMPDIR"] = str(place)
            trick = tricks[i % len(tricks)]
            attempt(outcome, lambda place=place, trick=trick: trick(place), (trick.__name__, i))
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return outcome


def _head_file(place: Path, address: str) -> Path:
    (place / "ray").mkdir(mode=0o777)
    (place / "ray").chmod(0o777)
    file = place / "ray" / "ray_current_cluster"
    file.write_text(address)
    return file


def _foreign_listener(place: Path) -> str:
    """Our own file names a port at which another user listens."""
    with _stranger() as (address, received):
        _head_file(place, address)
        assert find_running_head() is None, "another user's head is believed"
        assert not received(), "bytes went to another user's port"
    return "head not believed"


def _foreign_file(place: Path) -> str:
    """Another user's file names a port."""
    with _stranger() as (address, received):
        os.chown(_head_file(place, address), STRANGER, STRANGER)
        assert find_running_head() is None, "another user's file is believed"
        assert not received(), "bytes went to another user's port"
    return "head not believed"


def _open_file(place: Path) -> str:
    """Everybody may write the file that names our own head."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        _head_file(place, f"127.0.0.1:{ours.getsockname()[1]}").chmod(0o666)
        assert find_running_head() is None, "a file that others may write is believed"
    return "head not believed"


def _foreign_folder(place: Path) -> str:
    """Another user made the folder beforehand that a local Ray would use."""
    del os.environ["RAY_TMPDIR"]
    with tempfile.TemporaryDirectory(prefix="n") as short:
        tempfile.tempdir = short
        try:
            trap = Path(short) / f"ray-{os.getuid()}"
            trap.mkdir()
            os.chown(trap, STRANGER, STRANGER)
            own_ray_folder()
        finally:
            tempfile.tempdir = None
    raise AssertionError("a local Ray starts in another user's folder")


def _open_token(place: Path) -> str:
    """Another user looks for the token, and a token that everybody may read is not used."""
    place.chmod(0o755)
    token = place / "tokens" / "token"
    token.parent.mkdir()
    create_token(token)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600, "others may read the token"
    found = subprocess.run(
        [sys.executable, "-c", READ, str(STRANGER), str(token)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "read" not in found.stdout, f"another user reads: {found.stdout[:40]}"
    token.chmod(0o644)
    check_token_file(token)
    raise AssertionError("a token that everybody can read is used")


@contextmanager
def _stranger() -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield where another user listens, and a function that ends that: the bytes received."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(STRANGER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def received() -> int:
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}", received
        finally:
            process.kill()


def run_stranger_csv(n: int, seed: int, folder: Path) -> Outcome:
    """Train on a CSV with a row that points elsewhere: refused by line, and nobody is asked."""
    outcome = Outcome()
    write_color_dataset(folder / "data")
    with _listener() as (address, requests):
        for i in range(n):
            rng = random.Random(f"stranger:{seed}:{i}")
            table = folder / "data" / f"{i}.csv"
            row = _rows(address, rng)[i % 5]
            table.write_text(f"video_path,phase\n{row},a\n{row}x,b\n")
            try:
                done = _train(table, folder / str(i))
                assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr}"
                assert not requests, f"asked: {requests}"
                assert f"{i}.csv:2: " in done.stderr, f"no line is named: {done.stderr}"
            except AssertionError as error:
                outcome.fail(str(error)[:60], (row, str(error)))
            else:
                outcome.add("refused by line")
    return outcome


def _rows(address: str, rng: random.Random) -> list[str]:
    deep = "../" * rng.randint(3, 12)
    return [
        f"s3://b/v{rng.random()}.mp4?endpoint_override={quote(address, safe='')}&region=us-east-1",
        f"{address}/v.mp4",
        f"{deep}etc/passwd",
        "file:///etc/passwd",
        rng.choice(["/etc/hostname", "/proc/self/environ", "/root/.ssh/id_rsa"]),
    ]


def _train(table: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--csv_path", table, "--storage_path", folder / "runs"]
    flags += ["--output_pth", folder / "model.ckpt"]
    return subprocess.run(
        [sys.executable, TRAIN_PY, *map(str, flags)],
        env=os.environ | CREDENTIALS | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def _listener() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server, and the requests that it has received."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
