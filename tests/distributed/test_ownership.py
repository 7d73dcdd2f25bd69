"""A machine with other users: what they own is not believed, and what we write they cannot read."""

import errno
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.ownership import (
    check_token_file,
    create_token,
    is_trusted_file,
    is_trusted_listener,
    own_ray_folder,
)
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit

STRANGER = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")

LISTEN = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def refuse_link(*_):
    """Answer as a file system without hard links does."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture
def stranger():
    """The address at which another user of this machine listens."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(STRANGER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    process.communicate()


@pytest.fixture
def head_file(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir(mode=0o777)
    return tmp_path / "ray" / "ray_current_cluster"


@needs_root
def test_a_head_that_another_user_names_or_runs_gets_no_token(head_file, stranger):
    head_file.write_text(stranger)
    assert not is_trusted_listener(stranger)
    assert find_running_head() is None
    with socket.create_server(("127.0.0.1", 0)) as ours:
        address = f"127.0.0.1:{ours.getsockname()[1]}"
        assert is_trusted_listener(address)
        head_file.write_text(address)
        assert find_running_head() == address
        os.chown(head_file, STRANGER, STRANGER)
        assert find_running_head() is None


def test_a_file_that_others_may_write_is_not_believed(head_file):
    head_file.write_text("127.0.0.1:1")
    assert is_trusted_file(head_file)
    head_file.chmod(0o666)
    assert not is_trusted_file(head_file)
    link = head_file.with_name("link")
    link.symlink_to(head_file)
    assert not is_trusted_file(link)


@pytest.mark.parametrize("system", ["/tmp", "/tmp/" + 56 * "x"])
def test_a_ray_of_ones_own_lies_in_a_folder_that_nobody_else_enters(monkeypatch, system):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", system)
    folder = Path(own_ray_folder())
    status = folder.parent.lstat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.getuid()
    # session_YYYY-MM-DD_hh-mm-ss_micros_pid/sockets/plasma_store
    assert len(str(folder)) + 1 + 41 + len("/sockets/plasma_store") <= 107


@needs_root
def test_a_folder_that_another_user_made_beforehand_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("os.getuid", lambda: STRANGER + 1)
    with pytest.raises(UserError, match="belongs to another user; set RAY_TMPDIR"):
        own_ray_folder()
    Path(f"/tmp/ray-{STRANGER + 1}").rmdir()


def test_a_token_is_readable_by_its_user_alone_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    path = tmp_path / "ray" / "auth_token"
    create_token(path)
    first = path.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    create_token(path)
    assert path.read_text() == first
    check_token_file(path)
    path.chmod(0o644)
    with pytest.raises(UserError, match=f"other users may read the token {path}; chmod 600"):
        check_token_file(path)
    check_token_file(tmp_path / "none")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    check_token_file(path)  # it is not read then


@pytest.mark.parametrize("has_links", [True, False])
def test_runs_that_start_together_take_one_whole_token(tmp_path, monkeypatch, has_links):
    path = tmp_path / "auth_token"
    if not has_links:
        monkeypatch.setattr("os.link", refuse_link)

    def read_created(_):
        create_token(path)
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(read_created, range(64)))
    assert {len(token) for token in tokens} == {64}
    assert len(tokens) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = {file.name for file in tmp_path.iterdir()} - {".auth_token.lock"}
    assert left == {"auth_token"}
