"""Locks between real processes: held, shared, refused, and freed by a kill."""

import errno
import json
import os
import re
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage import claims, locks
from ophnet_ray.storage.locks import NamedLocks, exclusive, shared
from tests.helpers.lock_holders import holding
from tests.helpers.waiting import is_waited_for, wait_until

pytestmark = pytest.mark.unit

HOLD = """
import sys
from pathlib import Path
from ophnet_ray.storage.locks import NamedLocks, exclusive, shared
path = Path(sys.argv[1])
with {lock}:
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path, lock):
    """Another process that holds the lock until the context ends."""
    return holding(HOLD.format(lock=lock), path)


def is_busy(path):
    try:
        with exclusive(path, busy="busy"):
            return False
    except UserError:
        return True


def test_a_lock_that_another_process_holds_is_refused_with_the_given_message(tmp_path):
    path = tmp_path / ".lock"
    with (
        holder(path, "exclusive(path)"),
        pytest.raises(
            UserError,
            match=r"^the run is being trained \(process \d+ on \S+ since [-\d]+ [:\d]+\)$",
        ),
        exclusive(path, busy="the run is being trained"),
    ):
        pytest.fail("two hold the lock")
    assert not is_busy(path)


@pytest.mark.parametrize("lock", ["exclusive(path)", "shared(path)"])
def test_a_killed_holder_frees_the_lock(tmp_path, lock):
    path = tmp_path / ".lock"
    with holder(path, lock) as process:
        assert is_busy(path)
        process.kill()
        process.wait()
        assert not is_busy(path)


def test_processes_share_a_lock_and_nobody_holds_it_alone_meanwhile(tmp_path):
    path = tmp_path / ".in-use"
    with holder(path, "shared(path)"), shared(path):
        assert is_busy(path)


@pytest.mark.parametrize("wait", [exclusive, shared], ids=["alone", "together"])
def test_without_a_message_it_waits_for_the_process_that_holds_the_lock(tmp_path, wait):
    path = tmp_path / ".lock"

    def enter():
        with wait(path):
            return "entered"

    with ThreadPoolExecutor(1) as pool:
        with holder(path, "exclusive(path)"):
            entered = pool.submit(enter)
            wait_until(lambda: is_waited_for(path), "a thread waits for the lock")
            assert not entered.done()
        assert entered.result(timeout=60) == "entered"


def test_a_process_that_waits_names_the_one_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "FIRST_NOTICE_S", 0.01)
    path, told, is_told = tmp_path / ".lock", [], threading.Event()

    def tell(line):
        told.append(line)
        is_told.set()

    def enter():
        with exclusive(path, tell=tell):
            pass

    with ThreadPoolExecutor(1) as pool:
        with holder(path, "exclusive(path)") as process:
            entered = pool.submit(enter)
            assert is_told.wait(timeout=60)
            assert re.match(rf"waiting for {path}, held by process {process.pid} on ", told[0])
        entered.result(timeout=60)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, as Lustre is mounted by default."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)


CLAIM = """
import fcntl, os, sys
from pathlib import Path
def flock(*_): raise OSError(38, "Function not implemented")
fcntl.flock = flock
from ophnet_ray.storage.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_without_locks_of_the_file_system_one_process_holds_it_too(tmp_path, no_locks):
    path = tmp_path / ".lock"
    with holding(CLAIM, path) as process:
        refused = pytest.raises(UserError, match=rf"busy \(process {process.pid} on ")
        with refused, exclusive(path, busy="busy"):
            pytest.fail("two hold the lock")
        process.kill()
        process.wait()
        assert not is_busy(path)  # the killed holder is taken over
    assert {file.name for file in tmp_path.iterdir()} == {".lock"}
    with shared(path):
        pass


@pytest.mark.parametrize("ours", ["", "boot 1 pid:[1]"])
def test_only_silence_frees_the_lock_of_a_machine_without_an_identity(
    tmp_path, no_locks, monkeypatch, ours
):
    """A container of the same host name may have written it: its processes have other numbers."""
    monkeypatch.setattr(claims, "this_machine", lambda: ours)
    path, held = tmp_path / ".lock", tmp_path / ".lock.held"
    held.write_text(json.dumps({"host": socket.gethostname(), "pid": pid_of_nobody()}))
    with pytest.raises(UserError, match="busy"), exclusive(path, busy="busy"):
        pytest.fail("two hold the lock")
    os.utime(held, (0, 0))
    assert not is_busy(path)


def pid_of_nobody():
    """Return the number of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def pass_alone(marker):
    """Fail if another thread is between the two calls."""
    marker.touch(exist_ok=False)
    marker.unlink()


def test_of_many_that_take_over_one_holds_it(tmp_path, no_locks, monkeypatch):
    """All come at the same moment, as the workers of a job do that is started again."""
    monkeypatch.setattr(claims, "POLL_S", 0.0005)
    start = threading.Barrier(8)

    def work(folder):
        start.wait()
        for _ in range(3):
            with exclusive(folder / ".lock"):
                pass_alone(folder / "inside")
        return True

    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / ".lock.held").write_text('{"host": "gone", "pid": 1}')
            os.utime(folder / ".lock.held", (0, 0))
            assert all(pool.map(work, [folder] * 8))
            assert [file.name for file in folder.iterdir()] == [".lock"]


def test_a_former_holder_says_so_and_does_not_renew_the_lock_of_its_successor(
    tmp_path, no_locks, monkeypatch
):
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    path, told, is_told = tmp_path / ".lock", [], threading.Event()
    file = tmp_path / ".lock.held"

    def tell(line):
        told.append(line)
        is_told.set()

    with exclusive(path, tell=tell):
        # as another machine does after a minute of silence
        file.unlink()
        file.write_text('{"host": "node-7", "pid": 12, "since": "now", "token": "t"}')
        os.utime(file, (0, 0))
        assert is_told.wait(timeout=60)
    assert re.search(r"\.lock\.held was taken over by process 12 on node-7 since now: ", told[0])
    assert file.stat().st_mtime < 1e9
    assert file.read_text().startswith('{"host": "node-7"')


def test_an_error_inside_the_lock_is_not_taken_for_a_busy_one_and_frees_it(tmp_path):
    path = tmp_path / ".lock"
    with pytest.raises(BlockingIOError), exclusive(path, busy="busy"):
        raise BlockingIOError
    assert not is_busy(path)


def test_a_lock_file_in_a_folder_that_is_not_there_is_an_error_of_the_disk(tmp_path):
    for lock in (exclusive, shared):
        with pytest.raises(OSError, match="No such file"), lock(tmp_path / "none" / ".lock"):
            pytest.fail("a lock without a file")


def test_names_that_another_process_holds_are_not_taken(tmp_path):
    with (
        holder(tmp_path / "locks", "NamedLocks(path).hold('b')"),
        NamedLocks(tmp_path / "locks").take_free([["a", "b", "c"]]) as taken,
    ):
        assert taken == {"a", "c"}


def test_a_group_whose_first_name_is_held_is_left_to_its_holder(tmp_path):
    with (
        holder(tmp_path / "locks", "NamedLocks(path).hold('a')"),
        NamedLocks(tmp_path / "locks").take_free([["a", "b"], ["c", "d"]]) as taken,
    ):
        assert taken == {"c", "d"}


def test_a_killed_process_frees_its_names_and_its_lock_files_are_used_again(tmp_path):
    locks = NamedLocks(tmp_path / "locks")
    with holder(tmp_path / "locks", "NamedLocks(path).hold('a')") as process:
        process.kill()
        process.wait()
        assert (locks.folder / "a").exists()
        locks.wait_for("a")
        with locks.take_free([["a"]]) as taken:
            assert taken == {"a"}


def test_lock_files_of_names_go_with_their_locks(tmp_path):
    locks = NamedLocks(tmp_path / "locks")
    with locks.take_free([["a", "b"]]), locks.hold("c"):
        assert {path.name for path in locks.folder.iterdir()} == {"a", "b", "c"}
    assert not list(locks.folder.iterdir())


def test_of_many_that_wait_for_a_name_one_at_a_time_holds_it(tmp_path):
    """Each removes the lock file: one that waits must not hold a file that has no name any more."""
    locks = NamedLocks(tmp_path / "locks")

    def work(_):
        with locks.hold("a"):
            pass_alone(tmp_path / "inside")
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_where_no_lock_file_can_be_made_every_name_is_free(tmp_path, caplog):
    (tmp_path / "file").touch()
    with NamedLocks(tmp_path / "file").take_free([["a"]]) as taken:
        assert taken == {"a"}
    assert "the work is not shared" in caplog.text
