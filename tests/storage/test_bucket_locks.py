"""Locks in a bucket between real processes: refused, taken over, fenced, and what is written."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage import bucket_locks
from ophnet_ray.storage.bucket_locks import LostLockError, claimed_in_bucket
from ophnet_ray.storage.files import list_objects, write_object
from ophnet_ray.storage.paths import join
from tests.helpers.lock_holders import holding

pytestmark = pytest.mark.unit

HOLD = """
import sys
from ophnet_ray.storage import bucket_locks
bucket_locks.RENEW_S = {renew_s}
with bucket_locks.claimed_in_bucket(sys.argv[1], "busy", print) as claim:
    print("held", flush=True)
    for _ in sys.stdin:
        try:
            claim.check()
            print("mine", flush=True)
        except bucket_locks.LostLockError as error:
            print(error, flush=True)
"""


def holder(uri, *, renew_s=0.2):
    """Another process that holds the lock of a folder; it answers each line with its state."""
    return holding(HOLD.format(renew_s=renew_s), uri)


def ask(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.fixture
def fast(monkeypatch):
    """Watch a lock for two seconds instead of a minute."""
    monkeypatch.setattr(bucket_locks, "POLL_S", 0.1)
    monkeypatch.setattr(bucket_locks, "STALE_S", 2.0)


@contextmanager
def taken(uri, told=None):
    tell = print if told is None else told.append
    with claimed_in_bucket(uri, "the run is being trained", tell) as claim:
        yield claim


def test_a_held_lock_is_refused_with_who_holds_it_and_since_when(bucket, fast):
    uri, told = bucket.uri("locks/held"), []
    refusal = r"^the run is being trained \(process \d+ on \S+ since [-\d]+ [:\d]+\)$"
    with holder(uri), pytest.raises(UserError, match=refusal), taken(uri, told):
        pytest.fail("two hold the lock")
    assert re.search(r"locks/held is held by process \d+ on \S+ since .*; looking for", told[0])


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(bucket, monkeypatch):
    monkeypatch.setattr(bucket_locks, "STALE_S", 1e9)
    uri, told = bucket.uri("locks/killed"), []
    with holder(uri) as process:
        process.kill()
        process.wait()
    with taken(uri, told) as claim:
        claim.check()
    assert not told


@pytest.mark.parametrize("stays_s", [0.0, 0.3])
def test_a_released_lock_is_free(bucket, stays_s, monkeypatch):
    monkeypatch.setattr(bucket_locks, "RENEW_S", 0.05)
    monkeypatch.setattr(bucket_locks, "STALE_S", 1e9)
    uri, told = bucket.uri(f"locks/released{stays_s}"), []
    for _ in range(3):
        with taken(uri, told) as claim:
            time.sleep(stays_s)  # some renewals, one of them perhaps at the release
            claim.check()
    assert not told
    assert list(list_objects(join(uri, ".lock"))) == ["00000003"]


def test_a_stopped_holder_is_taken_over_and_is_told_so_before_it_writes(bucket, fast):
    uri, told = bucket.uri("locks/stopped"), []
    with holder(uri) as process:
        assert ask(process) == "mine\n"
        os.kill(process.pid, signal.SIGSTOP)
        with taken(uri, told) as claim:
            assert any("gave no sign of life for 2 s: its lock is taken over" in s for s in told)
            os.kill(process.pid, signal.SIGCONT)
            lost = ask(process)
            while not lost.startswith("s3://"):  # its renewal may say so first
                lost = process.stdout.readline()
            assert f"was taken over by process {os.getpid()} on " in lost
            claim.check()
        process.stdin.close()
        process.wait()
    with taken(uri) as claim:  # neither its renewal nor its end has touched the lock
        claim.check()


def test_the_lock_of_another_machine_that_is_gone_is_taken_over(bucket, fast):
    uri = bucket.uri("locks/gone")
    write_object(
        join(uri, ".lock/00000041"),
        b'{"host": "elsewhere", "pid": 1, "since": "2026-01-01 00:00:00", "token": "t"}',
    )
    told = []
    with taken(uri, told) as claim:
        assert claim.number == 42
    assert "elsewhere since 2026-01-01 00:00:00 gave no sign of life" in told[1]


def test_of_processes_that_come_at_the_same_moment_one_holds_the_lock(bucket, fast):
    """The threads are as good as machines here: nothing of the lock is in the process."""
    uri, inside = bucket.uri("locks/race"), []

    def try_once(number):
        try:
            with taken(uri):
                inside.append(number)
                others = len(inside)
                time.sleep(0.1)
                inside.remove(number)
                return others
        except UserError:
            return 0

    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(try_once, range(8)))
        assert max(counts) == 1


def test_a_deleted_lock_is_no_lock(bucket, fast):
    uri = bucket.uri("locks/deleted")
    with taken(uri) as claim:
        write_object(join(uri, ".lock/00000009"), b"")
        with pytest.raises(LostLockError, match="was taken over by a process that has left"):
            claim.check()


def test_a_bucket_without_conditions_is_named_in_one_line_and_used_as_it_is(bucket):
    uri, told = bucket.uri("locks/old-store"), []
    bucket.ignore_conditions(True)
    try:
        with taken(uri, told) as claim:
            assert claim is None
    finally:
        bucket.ignore_conditions(False)
    (line,) = told
    assert "locks/old-store cannot be locked (it has no conditional put): a second run" in line
    assert "\n" not in line


def test_a_lock_survives_requests_that_fail_for_a_moment(bucket):
    uri = bucket.uri("locks/flaky")
    bucket.fail_puts(2)
    with taken(uri) as claim:
        claim.check()
