"""Files that appear whole or not at all, on disk and in a bucket; copies; listings."""

import os
import signal
import socketserver
import stat
import subprocess
import sys
from threading import Thread

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage.access import check_readable, check_writable, ensure_writable
from ophnet_ray.storage.files import (
    copy_file,
    delete_object,
    download,
    list_names,
    list_objects,
    open_atomically,
    read_bytes,
    stat_files,
    upload,
    write_atomically,
    write_object,
)
from ophnet_ray.storage.filesystems import PROBE_ATTEMPTS
from ophnet_ray.storage.paths import join
from tests.helpers.bucket import Bucket
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

WRITE_HALF = """
import sys
from pathlib import Path
from ophnet_ray.storage.files import open_atomically
path = Path(sys.argv[1])
with open_atomically(path.parent, lambda: path.name) as file:
    file.write(b"half of the new content")
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_HALF, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    (leftover,) = tmp_path.glob(".new.*")
    assert leftover.read_bytes() == b"half of the new content"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")

    def break_off_after(data):
        with open_atomically(tmp_path, lambda: path.name) as file:
            file.write(data)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off_after(b"half")
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    assert path.read_bytes() == b"old"


def test_the_name_may_depend_on_what_was_written(tmp_path):
    written = []
    with open_atomically(tmp_path, lambda: f"{len(written)}.arrow") as file:
        for i in range(3):
            file.write(b"row")
            written.append(i)
    assert (tmp_path / "3.arrow").read_bytes() == b"rowrowrow"


def test_a_written_file_has_the_rights_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_copy_replaces_its_target_and_leaves_no_other_file(tmp_path):
    source, target = tmp_path / "last.ckpt", tmp_path / "out" / "model.ckpt"
    source.write_bytes(b"weights")
    target.parent.mkdir()
    target.write_bytes(b"old")
    copy_file(source, str(target))
    assert target.read_bytes() == b"weights"
    assert list_names(str(target.parent)) == ["model.ckpt"]


def test_a_copy_without_a_source_leaves_the_old_target(tmp_path):
    target = tmp_path / "model.ckpt"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / "none.ckpt", target)
    assert target.read_bytes() == b"old"
    assert list_names(str(tmp_path)) == ["model.ckpt"]


def test_a_folder_that_does_not_exist_has_no_names(tmp_path):
    assert list_names(str(tmp_path / "none")) == []


def test_only_files_that_exist_have_a_status(tmp_path):
    file, folder, absent = (str(tmp_path / name) for name in ("a", "folder", "none"))
    write_atomically(tmp_path / "a", b"12345")
    (tmp_path / "folder").mkdir()
    found = stat_files([file, folder, absent])
    assert list(found) == [file]
    assert found[file].size_bytes == 5


def test_a_writable_folder_is_created_and_left_empty(tmp_path):
    ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        ensure_writable(tmp_path / "file" / "b")


@pytest.mark.timeout(60)  # seconds, where the client's own retries take minutes
def test_a_bucket_that_does_not_answer_is_one_line_within_seconds(bucket):
    dead = "s3://surgery/x?endpoint_override=http%3A%2F%2F127.0.0.1%3A9&region=us-east-1"
    for check in (check_readable, check_writable):
        with pytest.raises(UserError, match="--flag s3://none/x: no such bucket; create it"):
            check("--flag", bucket.uri("x", bucket="none"))
        with pytest.raises(UserError, match="--flag s3://surgery/x: the endpoint does not answer"):
            check("--flag", dead)
    check_readable("--flag", bucket.uri("nothing-there-yet"))


def test_files_come_back_as_they_were_and_failed_requests_are_repeated(bucket, tmp_path):
    content = os.urandom(12_000_000)
    (tmp_path / "here").write_bytes(content)
    uri = bucket.uri("files/a file")
    bucket.count()
    bucket.fail_puts(3)
    upload(tmp_path / "here", uri)
    assert bucket.count()["failed"] == 3
    download(uri, tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == content
    assert list_objects(bucket.uri("files"))["a file"].size_bytes == len(content)
    with pytest.raises(FileNotFoundError):
        read_bytes(bucket.uri("files/none"))
    assert not list(tmp_path.glob(".new.*"))


def test_an_object_is_deleted_once_and_again_without_an_error(bucket):
    uri = bucket.uri("deleted/file")
    write_object(uri, b"content")
    for _ in range(2):
        delete_object(uri)
    assert list_names(bucket.uri("deleted")) == []


def test_files_of_one_bucket_folder_cost_one_listing(bucket, tmp_path):
    (tmp_path / "local").write_bytes(b"12")
    names = ["a", "b c", "d#e"]
    for name in names:
        write_object(join(bucket.uri("stat"), name), b"123")
    uris = [join(bucket.uri("stat"), name) for name in names]
    bucket.count()
    found = stat_files([*uris, bucket.uri("stat/none"), str(tmp_path / "local")])
    assert bucket.count()["requests"] == 1
    assert {path: status.size_bytes for path, status in found.items()} == {
        **dict.fromkeys(uris, 3),
        str(tmp_path / "local"): 2,
    }


def test_a_file_is_copied_into_a_bucket_even_an_empty_one(bucket, tmp_path):
    for content in (b"weights", b""):
        (tmp_path / "model.ckpt").write_bytes(content)
        copy_file(tmp_path / "model.ckpt", bucket.uri("out/model.ckpt"))
        assert read_bytes(bucket.uri("out/model.ckpt")) == content


@pytest.mark.parametrize("check", [check_readable, check_writable])
def test_a_check_gives_up_after_two_attempts(check):
    """A run learns of an endpoint that breaks off within seconds, not after all the attempts."""
    attempts = []

    class BreakOff(socketserver.BaseRequestHandler):
        def handle(self):
            attempts.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), BreakOff) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        uri = Bucket(f"http://127.0.0.1:{server.server_address[1]}").uri("x")
        with pytest.raises(UserError, match="--flag s3://surgery/x: the endpoint does not answer"):
            check("--flag", uri)
        server.shutdown()
    assert len(attempts) == PROBE_ATTEMPTS
