"""Privacy of a run: the modes of its files, its command line, and what its workers log."""

import os
import stat
import subprocess
import sys

import pytest

from ophnet_ray.distributed.private import private_files
from ophnet_ray.storage.files import write_atomically
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

WORKER = """
import logging, os, sys
from ophnet_ray.distributed.private import keep_worker_private
keep_worker_private()
logging.getLogger("ophnet_ray.data").warning("%s is read again", "case-7.mp4")
try:
    open("/data/case-8.mp4")
except OSError:
    logging.getLogger("ophnet_ray.data").exception("a decoder failed")
logging.getLogger("others").warning("case-9.mp4 is odd")
print(f"{os.umask(0):o}")
"""

ARGUMENTS = """
import sys
import psutil
from ophnet_ray.distributed.private import hide_arguments
hide_arguments()
print(" ".join(psutil.Process().cmdline()).strip(), sys.argv[1])
"""


def run_python(code, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | variables,
    )


@pytest.mark.parametrize(("is_private", "mode"), [(True, 0o600), (False, 0o644)])
def test_private_files_are_their_users_alone(tmp_path, is_private, mode):
    before = os.umask(0o022)
    try:
        with private_files(is_private):
            write_atomically(tmp_path / "file", b"")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_private_worker_writes_private_files_and_logs_no_data():
    done = run_python(WORKER)
    assert done.stdout == "77\n"
    assert "case-" not in done.stderr
    assert "WARNING ophnet_ray.data: %s is read again\n" in done.stderr
    assert "ERROR ophnet_ray.data: a decoder failed\n" in done.stderr
    assert done.stderr.count("FileNotFoundError") == 1
    assert "WARNING others: <string>:" in done.stderr


def test_the_command_line_of_a_private_run_is_hidden_from_others():
    done = run_python(ARGUMENTS, "/data/patients/segments.csv")
    assert done.stdout == "-c --private /data/patients/segments.csv\n"
