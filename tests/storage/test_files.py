"""Local files that appear whole or not at all; copies; listings."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from ophnet_ray.storage.files import (
    copy_file,
    ensure_writable,
    list_names,
    open_atomically,
    stat_files,
    write_atomically,
)
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
